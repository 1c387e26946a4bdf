"""`starflow generate` with several processes, as torchrun starts them."""

from pathlib import Path

import pytest

from processes import run_processes
from shared_work import generate, generate_and_die, shareable_pipeline
from starflow.media.video import read_metadata, read_video
from tiny_pipeline import CAPTIONS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    shareable_pipeline().save_pretrained(folder)
    return str(folder)


def test_all_processes_make_one_video(model: str, tmp_path: Path):
    arguments = [CAPTIONS[0], "--model", model, "--device", "cpu", "--seed", "3", "--tolerance", "1e-4"]
    assert generate(*arguments, "-o", f"{tmp_path}/one.mp4") == 0
    assert run_processes(2, generate, *arguments, "-o", f"{tmp_path}/all.mp4", log=tmp_path) == [0, 0]
    one, together = (read_video(tmp_path / f"{name}.mp4")[0].astype(int) for name in ("one", "all"))
    assert one.shape == together.shape
    assert one.std() > 1
    assert abs(one - together).max() <= 2
    assert read_metadata(tmp_path / "all.mp4")["seed"] == 3
    assert (tmp_path / "0.out").read_text().startswith(f"{tmp_path}/all.mp4: 32×32")
    assert (tmp_path / "1.out").read_text() == ""
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["all.mp4", "one.mp4"]


def test_prompts_are_distributed_to_processes(model: str, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS))
    arguments = ["--prompts", f"{tmp_path}/prompts.txt", "--model", model, "--device", "cpu", "--seed", "5"]
    assert generate(*arguments, "-o", f"{tmp_path}/one") == 0
    assert run_processes(2, generate, *arguments, "-o", f"{tmp_path}/two", log=tmp_path) == [0, 0]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    lines = [len((tmp_path / f"{rank}.out").read_text().splitlines()) for rank in range(2)]
    assert lines == [2, 1]


def test_a_process_that_dies_ends_the_run(model: str, tmp_path: Path):
    arguments = [CAPTIONS[0], "--model", model, "--device", "cpu", "-o", f"{tmp_path}/clip.mp4"]
    arguments += ["--num-frames", "41", "--stream"]  # the process dies at the first frame
    assert run_processes(2, generate_and_die, *arguments, log=tmp_path) == [1, 9]
    error = (tmp_path / "0.err").read_text()
    assert "process 0 of 2: error: another process has stopped or does not answer" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        (
            3,
            [],
            "its layers have 4 and 8 attention heads; the number of processes can be 1, 2, 4",
        ),
        (2, ["a cat", "--offload", "model"], "leave out --offload and --quantize"),
        (2, ["--prompts", __file__, "--contact-sheet", "sheet.png"], "leave it out, or start one process"),
        (2, ["a cat", "--quantize", "int8"], "leave out --offload and --quantize"),
    ],
)
def test_unsupported_options_are_one_clear_error(
    size: int, arguments: list[str], message: str, model: str, capsys, monkeypatch
):
    for name, value in {"RANK": 0, "WORLD_SIZE": size, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    assert generate(*(arguments or ["a cat"]), "--model", model, "--device", "cpu") == 2
    assert f"starflow: process 0 of {size}: error: " in (error := capsys.readouterr().err)
    assert message in error
