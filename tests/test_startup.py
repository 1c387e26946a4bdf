"""What processes import. Each runs in a process of its own, as most modules are loaded in that of the tests."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from starflow.startup import import_libraries, save_cpu_time

HEAVY = {"PIL", "av", "diffusers", "numpy", "scipy", "torch", "torchao", "transformers"}
NOT_FOR_THE_PIPELINE = {"gradio", "matplotlib", "omegaconf", "peft", "scipy", "skimage", "tensorboard", "torchao"}


def imported(code: str) -> set[str]:
    """The packages that a process has imported when it ends."""
    code = f"import atexit, sys\natexit.register(lambda: print('packages', *sys.modules))\n{code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    first, *modules = result.stdout.splitlines()[-1].split()
    assert first == "packages"
    return {name.partition(".")[0] for name in modules}


def command(*arguments: str) -> str:
    return f"import sys; sys.argv = {['starflow', *arguments]}; from starflow.cli.main import main; main()"


@pytest.mark.parametrize(
    "code", ["import starflow", command("--help"), command("generate", "--help"), command("--version")]
)
def test_the_package_and_the_help_import_nothing_heavy(code: str):
    packages = imported(code)
    assert "starflow" in packages
    assert not packages & HEAVY


def test_generating_imports_what_the_pipeline_needs(tmp_path: Path):
    pytest.importorskip("scipy")
    pytest.importorskip("torchao")
    path = tmp_path / "clip.mp4"
    packages = imported(command("generate", "a red circle moves right", "--num-frames", "5", "-o", str(path)))
    assert path.stat().st_size > 0
    assert {"av", "diffusers", "torch", "transformers"} <= packages
    assert not packages & NOT_FOR_THE_PIPELINE


def test_info_imports_what_the_pipeline_needs():
    packages = imported(command("info", "toyworld"))
    assert "diffusers" in packages
    assert not packages & NOT_FOR_THE_PIPELINE


def test_the_page_of_a_game_imports_neither_the_api_nor_a_database():
    packages = imported("import starflow.startup as s; s.import_libraries(quantized=False); import starflow.play.app")
    assert {"starlette", "uvicorn", "diffusers"} <= packages
    assert not packages & (NOT_FOR_THE_PIPELINE | {"fastapi", "pydantic_core", "sqlalchemy"})


def test_quantizing_imports_torchao():
    pytest.importorskip("torchao")
    code = "from starflow.startup import import_libraries; import_libraries(quantized=True)"
    assert {"diffusers", "torchao"} <= imported(code)


def test_loras_import_peft():
    code = "from starflow.startup import import_libraries; import_libraries(quantized=False, lora=True)"
    packages = imported(code)
    assert {"diffusers", "peft"} <= packages
    assert not packages & {"scipy", "torchao"}


def test_hidden_packages_can_be_imported_later():
    pytest.importorskip("torchao")
    code = "from starflow.startup import import_libraries; import_libraries(quantized=False); import torchao, gc"
    assert {"diffusers", "torchao"} <= imported(f"{code}; assert gc.isenabled()")


def test_a_process_that_has_imported_diffusers_stays_as_it_is():
    import diffusers  # noqa: F401

    before = gc.get_freeze_count()
    import_libraries(quantized=False)
    assert gc.get_freeze_count() == before
    assert sys.modules.get("torchao", "not None") is not None


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(own: str | None, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    save_cpu_time()
    assert os.environ["OMP_WAIT_POLICY"] == (own or "PASSIVE")
