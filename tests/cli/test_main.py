import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

import starflow
from starflow.cli import main as cli_main
from starflow.errors import StarflowError, UsageError

HEAVY_MODULES = ["torch", "diffusers", "transformers", "numpy", "av", "PIL"]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def plain_process(monkeypatch):
    monkeypatch.setattr(cli_main, "quiet_libraries", lambda: None)  # do not change the warnings of other tests
    monkeypatch.delenv("STARFLOW_DEBUG", raising=False)


@pytest.fixture
def failing_command(monkeypatch):
    """Make `starflow fail` raise the given error."""

    def install(error: BaseException) -> None:
        @click.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli_main, "fail", fail, raising=False)
        row = cli_main.LazyCommand("starflow.cli.main", "fail", "Fail.")
        monkeypatch.setitem(cli_main.COMMANDS, "fail", row)

    return install


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = f"""
import resource, sys
from starflow.cli.main import run
status = run(["--help"])
cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
loaded = [name for name in {HEAVY_MODULES} if name in sys.modules]
print(status, loaded, cpu < 1.0, cpu, file=sys.stderr)
"""
    result = python(code)
    for name, command in cli_main.COMMANDS.items():
        assert name in result.stdout
        assert command.short_help in result.stdout
    assert result.stderr.startswith("0 [] True "), result.stderr


def test_importing_the_package_is_cheap():
    result = python(f"import sys, starflow; print([name for name in {HEAVY_MODULES} if name in sys.modules])")
    assert result.stdout.strip() == "[]"


def test_version_is_printed(capsys):
    assert cli_main.run(["--version"]) == 0
    assert starflow.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (StarflowError("no model at x"), 1, "starflow: error: no model at x"),
        (UsageError("unknown key\n  'lerning_rate'"), 2, "starflow: error: unknown key 'lerning_rate'"),
        (OSError(28, "No space left on device", "clip.mp4"), 1, "starflow: error: clip.mp4: No space left on device"),
        (OSError("the hub\ncannot be reached"), 1, "starflow: error: the hub cannot be reached"),
        (KeyboardInterrupt(), 130, "starflow: interrupted"),
        (
            ModuleNotFoundError("No module named 'av'", name="av"),
            1,
            f"starflow: error: {cli_main.MISSING.format('av')}",
        ),
        (MemoryError(), 1, f"starflow: error: {cli_main.OUT_OF_MEMORY}"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, f"starflow: error: {cli_main.OUT_OF_MEMORY}"),
    ],
)
def test_errors_become_one_line_and_a_status(failing_command, capsys, error, status, message):
    failing_command(error)
    assert cli_main.run(["fail"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == message


def test_debug_shows_the_traceback(failing_command, monkeypatch):
    failing_command(StarflowError("no model"))
    monkeypatch.setenv("STARFLOW_DEBUG", "1")
    with pytest.raises(StarflowError, match="no model"):
        cli_main.run(["fail"])


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes differ")])
def test_other_exceptions_are_raised(failing_command, error: Exception):
    failing_command(error)
    with pytest.raises(type(error)):
        cli_main.run(["fail"])


def test_a_video_larger_than_the_memory_is_one_line(tmp_path: Path, capsys):
    path = tmp_path / "x.mp4"
    assert cli_main.run(["generate", "a red circle", "--num-frames", "100000000000000", "-o", str(path)]) == 2
    loading, error = capsys.readouterr().err.splitlines()
    assert loading == "loading toyworld ..."
    assert "GiB of memory, but this machine has" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["no-such-command"], ["--no-such-option"], []])
def test_wrong_usage_exits_with_2(args):
    assert cli_main.run(args) == 2


def test_python_dash_m_runs_the_same_command():
    result = subprocess.run(
        [sys.executable, "-m", "starflow", "--version"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0
    assert starflow.__version__ in result.stdout


def test_the_module_of_every_command_exists():
    root = Path(starflow.__file__).parent.parent
    for command in cli_main.COMMANDS.values():
        path = root / command.module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), command.module


def test_an_output_encoding_without_some_characters_is_no_error():
    code = "import sys; from starflow.cli import main; main.run = lambda: print('64×64') or 0; main.main()"
    environment = os.environ | {"PYTHONIOENCODING": "cp1251"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=300)
    assert (result.returncode, result.stdout) == (0, b"64?64\n")


TERMINATED = """
import os, signal
from starflow.cli import main
from starflow.media.files import atomic_write

def run():
    try:
        with atomic_write("clip.mp4") as temporary:
            temporary.write_text("half of it")
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    except KeyboardInterrupt:
        return 130

main.run = run
main.main()
"""


def test_sigterm_leaves_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert python(TERMINATED).returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "red", "circle"], "quotation marks"),
        (["generate", "a red circle", "--num-inference-steps", "50"], "--tolerance"),
        (["generate", "a red circle", "--negative_prompt", "blurry"], "empty caption"),
        (["generate", "a red circle", "--width", "64"], "--size"),
    ],
)
def test_habits_of_other_tools_get_a_hint(arguments: list[str], message: str, capsys):
    assert cli_main.run(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Hint: ")
    assert message in last


@pytest.mark.parametrize("command", ["score", "encode", "decode", "evaluate", "info", "convert", "export"])
def test_torchrun_is_refused_where_processes_cannot_share_the_work(command: str, monkeypatch, capsys):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert cli_main.run([command, "x"]) == 2
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["score", "a.mp4"], ["encode", "a.mp4"], ["evaluate", "toyworld"]])
def test_a_seed_of_more_than_64_bits_is_refused(arguments: list[str], capsys):
    assert cli_main.run([*arguments, "--seed", str(2**64)]) == 2
    assert "0<=x<=18446744073709551615" in capsys.readouterr().err
