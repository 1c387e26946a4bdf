"""`starflow export`: its errors. test_convert.py tests that it is the inverse of `convert`."""

from pathlib import Path

import pytest

from starflow.cli.main import run


@pytest.mark.parametrize(
    ("model", "message"),
    [("no/such/model", "no model at"), ("", "does not hold a model"), ("toy", "no model at toy")],
)
def test_a_missing_model_is_an_error(model: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "folder").mkdir()
    assert run(["export", model or str(tmp_path / "folder"), "-o", str(tmp_path / "model.pth")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model.pth").exists()


def test_damaged_weights_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "flow").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "flow" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    assert run(["export", str(tmp_path), "-o", str(tmp_path / "model.pth")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_an_existing_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "released.pth"
    path.write_bytes(b"weights")
    assert run(["export", "toyworld", "-o", str(path)]) == 2
    assert "exists: remove it" in capsys.readouterr().err
    assert path.read_bytes() == b"weights"
