import io
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from server_helpers import MANY_FRAMES, PROMPT, Client, clip_file, serving, settings_for, until
from starflow.media.frames import from_unit
from starflow.media.reading import open_video
from starflow.media.writing import write_growing
from starflow.pipeline.pipeline import StarFlowPipeline


def frames_of(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def content(client: Client, video: dict, **headers: str) -> bytes:
    response = client.get(f"/v1/videos/{video['id']}/content", headers=headers)
    assert response.is_success, response.text
    return response.content


def metric(client: Client, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_the_same_seed_gives_the_same_video(client: Client):
    videos = [client.wait(client.make(seed=seed)) for seed in (7, 7, 8)]
    first, second, other = (content(client, video) for video in videos)
    assert first == second
    assert first != other


def test_a_video_is_that_of_the_pipeline(client: Client, tiny_model: Path, tmp_path: Path):
    video = client.wait(client.make(seed=3, num_frames=9, guidance_scale=1.5, tolerance=1e-3))
    pipeline = StarFlowPipeline.from_pretrained(tiny_model)
    output = pipeline(
        PROMPT, generator=torch.Generator().manual_seed(3), guidance_scale=1.5, tolerance=1e-3, output_type="np"
    )
    expected = write_growing(tmp_path / "expected.mp4", from_unit(output.frames[0]), 8).read_bytes()
    difference = np.abs(frames_of(content(client, video)).astype(int) - frames_of(expected))
    assert difference.mean() < 0.5  # compression makes more of a last bit in a pixel
    assert difference.max() < 20


def test_what_was_decided_is_stored_with_the_video(tiny_model: Path, tmp_path: Path):
    options = {"guidance_scale": 2.5, "tolerance": 0.1}
    with serving(settings_for(tiny_model, tmp_path, options=options)) as client:
        video = client.make(tolerance=0.2)
    assert video["guidance_scale"] == 2.5  # the operator's
    assert video["tolerance"] == 0.2  # the client's
    assert (video["num_frames"], video["fps"], video["size"]) == (9, 8, "32x32")  # the model's


def test_what_clients_send_by_habit_is_accepted_and_named(client: Client):
    assert client.make(negative_prompt="blurry", num_inference_steps=50)["ignored"] == [
        "negative_prompt",
        "num_inference_steps",
    ]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": " "}, "prompt", "should match pattern"),
        ({"size": "big"}, "size", "'big' is not a size"),
        ({"size": "4096x4096"}, "size", "a frame may have"),
        ({"seconds": -1}, "seconds", "greater than 0"),
        ({"seconds": 1e9}, "seconds", "a video may last 3600 s here"),
        ({"seconds": 1, "num_frames": 9}, "seconds", "not both"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"tolerance": "nan"}, "tolerance", "finite"),
        ({"steps": 5}, "steps", "Extra inputs are not permitted"),
        ({"input_reference": {"image_url": "http://example.org/a.png"}}, "input_reference", "fetches nothing"),
        ({"video_reference": {"id": "video_unknown"}}, "video_reference", "there is no completed video"),
        ({"video_reference": {}}, "video_reference", "needs a file"),
    ],
)
def test_a_wrong_request_is_one_clear_error(client: Client, fields: dict, param: str | None, message: str):
    response = client.post("/v1/videos", json={"prompt": PROMPT} | fields)
    assert response.status_code in (400, 404), response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"x", "text/plain", 415),
        (b"--x\r\nbad", "multipart/form-data; boundary=x", 400),
        (b"", "multipart/form-data", 400),
    ],
)
def test_a_damaged_body_is_one_clear_error(client: Client, body: bytes, kind: str, status: int):
    response = client.post("/v1/videos", content=body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_running_video_is_cancelled_within_two_seconds_and_its_files_are_removed(client: Client):
    video = client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
    folder = client.server.settings.folder(video["id"])
    until(lambda: list(folder.glob("fragments-*.mp4")))
    start = time.monotonic()
    assert client.post(f"/v1/videos/{video['id']}/cancel").json()["status"] == "cancelled"
    until(lambda: not folder.exists(), 2)
    following = client.make(num_frames=1)
    client.wait(following)
    assert time.monotonic() - start < 4  # the worker is free again
    assert client.get(f"/v1/videos/{video['id']}/content").status_code == 404


def test_a_running_video_is_deleted_within_two_seconds(client: Client):
    video = client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
    assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"]
    assert client.get(f"/v1/videos/{video['id']}").status_code == 404
    until(lambda: client.server.store.count("in_progress") == 0, 2)
    until(lambda: not client.server.settings.folder(video["id"]).exists(), 2)


def test_the_queue_is_bounded_and_says_when_to_try_again(tiny_model: Path, tmp_path: Path):
    with serving(settings_for(tiny_model, tmp_path, limits={"queued": 2})) as client:
        running = client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
        waiting = [client.make() for _ in range(2)]
        assert [video["queue_position"] for video in waiting] == [0, 1]
        refused = client.post("/v1/videos", json={"prompt": PROMPT})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["Retry-After"]) > 0
        assert metric(client, "starflow_num_requests_waiting") == 2
        assert len(list((tmp_path / "videos").iterdir())) == 3  # nothing is left of what was refused
        client.delete(f"/v1/videos/{running['id']}")
        assert client.wait(waiting[1])["status"] == "completed"


def test_parts_of_a_file_can_be_asked_for(client: Client):
    video = client.wait(client.make())
    whole = content(client, video)
    part = client.get(f"/v1/videos/{video['id']}/content", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
    assert part.headers["Content-Type"] == "video/mp4"


def test_the_content_of_a_running_video_streams(client: Client):
    video = client.wait(client.make(num_frames=401), "in_progress")
    states = []
    received = b""
    with client.stream("GET", f"/v1/videos/{video['id']}/content") as response:
        for piece in response.iter_raw():
            received += piece
            if not states:
                states.append(client.get(f"/v1/videos/{video['id']}").json()["status"])
    assert states == ["in_progress"]  # the first bytes came before the end
    assert len(frames_of(received)) == 401
    finished = content(client, client.wait(video))
    np.testing.assert_array_equal(frames_of(received), frames_of(finished))


def test_a_video_whose_file_was_removed_has_no_content(client: Client):
    video = client.wait(client.make(num_frames=1))
    (client.server.settings.folder(video["id"]) / "video.mp4").unlink()
    response = client.get(f"/v1/videos/{video['id']}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "no_content")


def test_the_content_of_a_queued_video_is_not_ready(client: Client):
    running = client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
    queued = client.make()
    response = client.get(f"/v1/videos/{queued['id']}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "not_ready")
    client.delete(f"/v1/videos/{running['id']}")
    client.wait(queued)


def test_a_synchronous_request_is_answered_with_the_video(client: Client):
    response = client.post("/v1/videos/sync", json={"prompt": PROMPT, "seed": 4})
    assert response.headers["Content-Type"] == "video/mp4"
    assert response.content == content(client, client.wait(client.make(seed=4)))
    assert client.get(f"/v1/videos/{response.headers['X-Video-ID']}").json()["seed"] == 4


def test_a_request_with_the_same_idempotency_key_makes_one_video(client: Client):
    headers = {"Idempotency-Key": "key-1"}
    first, second = (client.post("/v1/videos", json={"prompt": PROMPT, "seed": 1}, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    other = client.post("/v1/videos", json={"prompt": PROMPT, "seed": 2}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_a_clip_is_edited_and_continued(client: Client, tmp_path: Path):
    path = clip_file(tmp_path / "clip.mp4", num_frames=11)
    with path.open("rb") as file:
        edit = client.post("/v1/videos", data={"prompt": PROMPT}, files={"video_reference": file}).json()
    assert (edit["task"], edit["num_frames"]) == ("video-to-video", 9)
    source = client.wait(edit)
    assert source["status"] == "completed", source
    longer = client.wait(client.make(extend_reference={"id": source["id"]}))
    assert (longer["task"], longer["num_frames"]) == ("continuation", 17)
    assert longer["remixed_from_video_id"] == source["id"]
    begun, before = frames_of(content(client, longer))[:9], frames_of(content(client, source))
    assert begun.shape == before.shape


def test_a_clip_that_is_too_long_to_be_edited_is_refused(client: Client, tmp_path: Path):
    with clip_file(tmp_path / "clip.mp4", num_frames=17).open("rb") as file:
        response = client.post("/v1/videos", data={"prompt": PROMPT}, files={"video_reference": file})
    assert response.status_code == 400
    assert "at most the 9 frames" in response.json()["error"]["message"]


def test_a_clip_is_scored_under_each_caption(client: Client, tmp_path: Path):
    with clip_file(tmp_path / "clip.mp4").open("rb") as file:
        response = client.post(
            "/v1/videos/score",
            data={"prompt": [PROMPT, ""], "noise_samples": "2", "seed": "1"},
            files={"video": file},
        )
    assert response.status_code == 200, response.text
    scores = response.json()["scores"]
    assert [each["prompt"] for each in scores] == [PROMPT, ""]
    assert np.asarray(scores[0]["surprise"]).shape == (3, 2, 2)
    assert sum(scores[0]["per_frame"]) == pytest.approx(scores[0]["log_likelihood"])
    assert -np.sum(scores[0]["surprise"]) == pytest.approx(scores[0]["log_likelihood"])
    of_video = client.wait(client.make())
    again = client.post("/v1/videos/score", json={"prompt": PROMPT, "video": {"id": of_video["id"]}})
    assert again.status_code == 200, again.text
    assert client.post("/v1/videos/score", json={"prompt": PROMPT}).json()["error"]["param"] == "video"


def test_videos_are_listed_in_pages(client: Client):
    ids = [client.make()["id"] for _ in range(3)]
    page = client.get("/v1/videos", params={"limit": 2}).json()
    assert [video["id"] for video in page["data"]] == [ids[2], ids[1]] == [page["first_id"], page["last_id"]]
    assert page["has_more"]
    following = client.get("/v1/videos", params={"limit": 1, "after": page["last_id"]}).json()
    assert following["first_id"] == ids[0]


def test_a_failure_of_the_model_is_the_videos_error(client: Client):
    before = metric(client, "starflow_requests_success_total", finished_reason="failed")
    video = client.wait(client.make(last_image_reference={"id": client.wait(client.make())["id"]}, num_frames=17))
    assert video["status"] == "failed"
    assert "at most the 9 frames" in video["error"]["message"]
    until(lambda: metric(client, "starflow_requests_success_total", finished_reason="failed") == before + 1)


def test_operators_see_health_and_metrics(client: Client):
    client.wait(client.make())
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json()["workers"] == 1
    until(lambda: metric(client, "starflow_requests_success_total", finished_reason="completed") >= 1)
    for stage in ("text", "sampling", "denoising", "decoding"):
        assert metric(client, "starflow_stage_gen_time_seconds_count", stage=stage) >= 1
    assert metric(client, "starflow_peak_memory_bytes") > 2**20
    assert metric(client, "starflow_e2e_request_latency_seconds_count") >= 1
    assert metric(client, "starflow_num_requests_running") == 0


def test_equal_requests_are_made_in_a_batch_and_differ_by_seed_only(tiny_model: Path, tmp_path: Path):
    with serving(settings_for(tiny_model, tmp_path, limits={"batch": 4})) as client:
        blocker = client.wait(client.make(num_frames=MANY_FRAMES), "in_progress")
        videos = [client.make(seed=seed, tolerance=1e-4) for seed in (1, 2, 1)]
        client.delete(f"/v1/videos/{blocker['id']}")
        together = [client.wait(video) for video in videos]
        assert len({video["started_at"] for video in together}) == 1
        alone = client.wait(client.make(seed=2, tolerance=1e-4))
        first, second, third = (frames_of(content(client, video)).astype(int) for video in together)
        single = frames_of(content(client, alone)).astype(int)
    for one, other in ((first, third), (second, single)):  # compression makes more of a last bit in a pixel
        assert np.abs(one - other).mean() < 0.5
    assert np.abs(first - second).mean() > 3


def test_the_written_file_holds_a_seekable_video(client: Client):
    video = client.wait(client.make(num_frames=33))
    path = client.server.settings.folder(video["id"]) / "video.mp4"
    assert sorted(each.name for each in path.parent.iterdir()) == ["spritesheet.jpg", "thumbnail.webp", "video.mp4"]
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")
    assert open_video(path).fps == 8
