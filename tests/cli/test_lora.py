"""`starflow train lora`, and `--lora` of other commands."""

import json
from pathlib import Path

import pytest
import torch

from adapters import save_random_adapter
from clip_sources import write_clip
from starflow.cli import common
from starflow.cli.lora import Lora, parse_lora, parse_named_loras
from starflow.cli.main import run
from starflow.errors import UsageError
from starflow.hardware.fitting import Fitting
from starflow.media.video import read_metadata, read_video
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS

PROMPT = CAPTIONS[0]


@pytest.fixture(scope="module")
def lora(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_random_adapter(StarFlowPipeline.from_pretrained(model), tmp_path_factory.mktemp("lora")))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("runs/style/final", Lora("runs/style/final", 1.0)),
        ("runs/style/final:0.8", Lora("runs/style/final", 0.8)),
        ("owner/name:-2", Lora("owner/name", -2.0)),
    ],
)
def test_a_lora_has_a_path_and_a_scale(text: str, parsed: Lora):
    assert parse_lora(text) == parsed


def test_an_existing_path_may_have_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("take:2").mkdir()
    assert parse_lora("take:2") == Lora("take:2", 1.0)


@pytest.mark.parametrize("text", ["style:much", "style:nan", "style:inf", "style:"])
def test_a_scale_that_is_no_number_is_an_error(text: str):
    with pytest.raises(UsageError, match=r"must be a number, as in style:0\.8"):
        parse_lora(text)


def test_loras_of_a_server_have_names():
    assert parse_named_loras(["clay=runs/clay/final", "ink=a=b"]) == {"clay": "runs/clay/final", "ink": "a=b"}


@pytest.mark.parametrize("texts", [["runs/clay"], ["=runs/clay"], ["clay="], ["a/b=c"], ["a.b=c"], ["a=b", "a=c"]])
def test_a_lora_of_a_server_needs_a_name_of_its_own(texts: list[str]):
    with pytest.raises(UsageError, match=f"--lora {texts[-1]}"):
        parse_named_loras(texts)


def test_generating_with_loras(model: str, lora: str, tmp_path: Path):
    def clip(name: str, *options: str) -> torch.Tensor:
        path = tmp_path / f"{name}.mp4"
        assert run(["generate", PROMPT, "--model", model, "--device", "cpu", "-o", str(path), *options]) == 0
        return torch.from_numpy(read_video(path)[0]).float()

    plain, adapted = clip("plain"), clip("adapted", "--lora", lora)
    assert (adapted - plain).abs().mean() > 1
    assert torch.equal(clip("halves", "--lora", f"{lora}:0.5", "--lora", f"{lora}:0.5"), adapted)
    assert torch.equal(clip("nothing", "--lora", f"{lora}:0"), plain)
    assert read_metadata(tmp_path / "halves.mp4")["lora"] == [f"{lora}:0.5"] * 2
    assert "lora" not in read_metadata(tmp_path / "plain.mp4")


def test_a_quantized_model_keeps_the_lora_apart(model: str, lora: str, tmp_path: Path):
    pytest.importorskip("torchao")
    fitting = Fitting(quantize="int8")
    pipeline = common.load_pipeline(model, "cpu", "float32", fitting, loras=[Lora(lora, 0.5)])
    assert pipeline.get_active_adapters() == ["lora_0"]
    plain = common.load_pipeline(model, "cpu", "float32", loras=[Lora(lora, 0.5)])
    assert not hasattr(plain.flow, "peft_config")


def test_scoring_with_a_lora(model: str, lora: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "clip.mp4"
    write_clip(path, "", 9, 32, 32, fps=8)

    def score(*options: str) -> float:
        command = ["score", str(path), "--prompt", PROMPT, "--model", model, "--device", "cpu", "--json"]
        assert run([*command, *options]) == 0
        return json.loads(capsys.readouterr().out)["nats_per_dim"]

    assert score("--lora", lora) != pytest.approx(score(), abs=0.01)


def test_a_lora_that_does_not_load_is_one_line(model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = str(tmp_path / "clip.mp4")
    for lora, status, message in (("no/such/lora", 1, "no LoRA at no/such/lora"), ("a:b", 2, "must be a number")):
        assert run(["generate", PROMPT, "--model", model, "-o", path, "--lora", lora]) == status
        assert message in capfd.readouterr().err.splitlines()[-1]
    assert not Path(path).exists()


def test_training_a_lora_and_using_it(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for index in range(3):
        write_clip(tmp_path / "clips" / f"{index}.mp4", f"noise number {index}", 9, 32, 32, fps=8, seed=index)
    recipe = Path(__file__).parents[2] / "recipes" / "clips" / "lora.yaml"
    output = tmp_path / "run"
    options = [f"data.path={tmp_path / 'clips'}", f"init={model}", f"output={output}", "batch_size=2", "lora.rank=2"]
    steps = ["loop.num_steps=2", "loop.decay_steps=1", "loop.warmup_steps=0", "loop.bf16=false"]
    assert run(["train", "lora", str(recipe), *options, *steps]) == 0
    told = capsys.readouterr().out
    assert f"trained LoRA: {output / 'final'}" in told
    assert f"--model {model} --lora {output / 'final'} -o video.mp4" in told
    path = str(tmp_path / "video.mp4")
    command = ["generate", "noise number 0", "--model", model, "--lora", str(output / "final"), "-o", path]
    assert run([*command, "--device", "cpu"]) == 0
    assert read_video(path)[0].shape == (9, 32, 32, 3)
