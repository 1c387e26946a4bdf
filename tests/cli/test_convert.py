"""`starflow convert` and `starflow export` on a tiny checkpoint in the released project's own files."""

from pathlib import Path

import pytest
import torch

from released_checkpoint import ARGUMENTS, VIDEO, released_state, save, save_components, write_config
from starflow.cli.main import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pth, config.yaml, and the VAE and text encoder that it names."""
    folder = tmp_path_factory.mktemp("released")
    write_config(folder, VIDEO | save_components(folder))
    torch.manual_seed(0)
    save(released_state(ARGUMENTS), folder)
    return folder


def convert(folder: Path, output: Path, *options: str) -> int:
    return run(
        ["convert", str(folder / "model.pth"), "--config", str(folder / "config.yaml"), "-o", str(output), *options]
    )


def test_convert_and_export_are_inverse(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert convert(folder, tmp_path / "model") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'model'}: ")
    for part in ("parameters", "GB in 2 files", str(folder / "vae"), str(folder / "text")):
        assert part in line
    assert run(["export", str(tmp_path / "model"), "-o", str(tmp_path / "again.pth")]) == 0
    assert str(tmp_path / "again.pth") in capsys.readouterr().out
    before, after = (torch.load(path, weights_only=True) for path in (folder / "model.pth", tmp_path / "again.pth"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bundled_model_exports(tmp_path: Path):
    assert run(["export", "toyworld", "-o", str(tmp_path / "toyworld.pth")]) == 0
    assert "blocks.3.proj_txt.weight" in torch.load(tmp_path / "toyworld.pth", weights_only=True, mmap=True)


def test_options(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--dtype", "bfloat16", "--vae", str(folder / "vae"), "--text-encoder", str(folder / "text")]
    assert convert(folder, tmp_path / "model", *options) == 0
    assert (tmp_path / "model" / "flow" / "config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["model.pth", "-o", "out"], 2, "which model is model.pth? Give --config: starflow-v-7b, starflow-3b"),
        (["model.pth", "-o", "out", "--config", "starflow-9b"], 2, "no configuration starflow-9b"),
        (["model.pth", "-o", "out", "--config", "starflow-3b"], 1, "does not fit the configuration"),
        (["missing.pth", "-o", "out", "--config", "starflow-3b"], 1, "cannot read missing.pth: there is no such file"),
        (["starflow_3B_t2i_256x256.pth", "-o", "out"], 1, "there is no such file"),
        (["model.pth", "-o", "vae", "--config", "config.yaml"], 2, "vae exists"),
        (
            ["vae", "-o", "out", "--config", "config.yaml"],
            1,
            "torch.distributed.checkpoint.format_utils dcp_to_torch vae",
        ),
        (["model.pth", "-o", "out", "--config", "model.pth"], 2, "is not a configuration of the released project"),
        (["model.pth", "-o", "out", "--config", "config.yaml", "--vae", "nowhere"], 2, "no model at nowhere"),
        (["owner/name/model.pth", "-o", "out", "--config", "starflow-3b"], 1, "offline mode is on (HF_HUB_OFFLINE)"),
        (["model.pth", "--config", "config.yaml"], 2, "--output"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], status: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.chdir(folder)
    assert run(["convert", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (folder / "out").exists()
