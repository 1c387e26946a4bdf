"""Adapters that clients use by name, and models that are fitted into memory."""

from pathlib import Path

import pytest
import torch

from server_helpers import MANY_FRAMES, PROMPT, Client, serving, settings_for
from starflow.errors import StarflowError, UsageError
from starflow.hardware.fitting import Fitting
from starflow.hardware.placement import OFFLOADS
from starflow.serve.decide import batch_key
from starflow.serve.server import Server
from starflow.serve.worker import load, use_lora


def content(client: Client, **fields: object) -> bytes:
    video = client.wait(client.make(seed=1, **fields))
    assert video["status"] == "completed", video
    return client.get(f"/v1/videos/{video['id']}/content").content


def test_a_lora_changes_the_video_that_asks_for_it_and_no_other(adapted: Client, client: Client):
    plain = content(client)
    clay, ink = (content(adapted, lora={"name": name}) for name in ("clay", "ink"))
    assert len({plain, clay, ink}) == 3
    assert content(adapted) == plain
    assert content(adapted, lora={"name": "clay", "scale": 0}) == plain
    half = content(adapted, lora={"name": "clay", "scale": 0.5})
    assert half not in (plain, clay)
    assert content(adapted, lora={"name": "clay"}) == clay


def test_a_video_says_which_lora_it_was_made_with(adapted: Client):
    assert adapted.make()["lora"] is None
    assert adapted.make(lora={"name": "ink", "scale": 0.8})["lora"] == {"name": "ink", "scale": 0.8}
    form = {"prompt": PROMPT, "lora[name]": "clay", "lora[scale]": "0.5"}
    assert adapted.post("/v1/videos", data=form).json()["lora"] == {"name": "clay", "scale": 0.5}


def test_pictures_are_made_with_a_lora(adapted: Client):
    def picture(**fields: object) -> str:
        response = adapted.post("/v1/images/generations", json={"prompt": PROMPT, "seed": 1, **fields})
        return response.json()["data"][0]["b64_json"]

    assert picture(lora={"name": "clay"}) != picture()


def test_a_score_is_that_of_the_model_without_the_lora_before_it(adapted: Client, client: Client):
    def score(client: Client) -> float:
        video = client.wait(client.make(seed=1))
        fields = {"prompt": PROMPT, "video": {"id": video["id"]}}
        return client.post("/v1/videos/score", json=fields).json()["scores"][0]["nats_per_dim"]

    content(adapted, lora={"name": "clay"})
    assert score(adapted) == pytest.approx(score(client), abs=1e-5)


def test_the_loras_are_listed(adapted: Client, client: Client):
    assert adapted.get("/v1/models").json()["data"][0]["loras"] == ["clay", "ink"]
    assert client.get("/v1/models").json()["data"][0]["loras"] == []


@pytest.mark.parametrize(
    ("lora", "status", "message"),
    [
        ({"name": "oil"}, 404, "there is no LoRA 'oil' here: this server has clay, ink"),
        ({"name": "/etc/passwd"}, 404, "there is no LoRA"),
        ({"name": "clay", "scale": "nan"}, 400, "lora.scale"),
        ({"name": "clay", "scale": 11}, 400, "lora.scale"),
        ({"path": "clay"}, 400, "lora"),
        ("clay", 400, "lora"),
    ],
)
def test_a_wrong_lora_is_one_clear_error(adapted: Client, lora: object, status: int, message: str):
    response = adapted.post("/v1/videos", json={"prompt": PROMPT, "lora": lora})
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_only_videos_of_the_same_lora_are_made_in_a_batch(adapted: Client):
    blocker = adapted.wait(adapted.make(num_frames=MANY_FRAMES), "in_progress")
    asked = [None, {"name": "clay"}, {"name": "clay", "scale": 0.5}, {"name": "clay", "scale": 1}, {"name": "ink"}]
    jobs = [adapted.server.store.get(adapted.make(lora=lora)["id"]) for lora in asked]
    keys = [job.batch_key for job in jobs]
    assert keys[1] == keys[3]
    assert len(set(keys)) == 4
    assert all(batch_key(job.settings) == job.batch_key for job in jobs)
    adapted.delete(f"/v1/videos/{blocker['id']}")
    ended = [adapted.wait({"id": job.id}) for job in jobs]
    assert {video["status"] for video in ended} == {"completed"}


def test_a_lora_that_cannot_be_used_is_known_before_a_worker_starts(tiny_model: Path, tmp_path: Path):
    with pytest.raises(StarflowError, match="no LoRA at /no/such/file"):
        Server.of(settings_for(tiny_model, tmp_path, loras={"style": "/no/such/file"}))
    (tmp_path / "lora.safetensors").write_bytes(b"damaged")
    with pytest.raises(StarflowError, match="is damaged"):
        Server.of(settings_for(tiny_model, tmp_path, loras={"style": f"{tmp_path}/lora.safetensors"}))


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_fitted_model_switches_between_loras(
    tiny_model: Path, tmp_path: Path, loras: dict[str, str], offload: str, quantize: str | None
):
    settings = settings_for(tiny_model, tmp_path, loras=loras, fitting=Fitting(offload, quantize))
    pipeline = load(settings, "cpu")

    def frames(lora: dict | None) -> bytes:
        use_lora(pipeline, lora)
        generator = torch.Generator().manual_seed(0)
        return pipeline(PROMPT, generator=generator, output_type="np").frames.tobytes()

    clay = {"name": "clay", "scale": 1.0}
    plain = frames(None)
    assert frames(clay) != plain
    assert frames(None) == plain


def test_the_options_that_fit_a_model_reach_the_worker(tiny_model: Path, tmp_path: Path):
    fitting = Fitting("group", "int8", "float8", tiling=True)
    settings = settings_for(tiny_model, tmp_path, fitting=fitting, dtype="bfloat16")
    pipeline = load(settings, "cpu")
    assert hasattr(pipeline.flow.deep.transformer.layers[0], "_diffusers_hook")
    assert pipeline.vae.use_tiling
    assert str(pipeline.flow.cache_dtype) == "torch.float8_e4m3fn"
    with serving(settings) as client:
        assert content(client)


def test_a_model_that_cannot_be_quantized_is_known_before_a_worker_starts(tiny_model: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="int4 needs layers"):
        Server.of(settings_for(tiny_model, tmp_path, fitting=Fitting(quantize="int4")))
