import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from server_helpers import until
from starflow.cli.main import run
from starflow.hardware import memory
from tiny_pipeline import tiny_pipeline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "anybody who reaches 0.0.0.0 could use this server: give --api-key-file"),
        (["--model", "no-such-model"], "no model at no-such-model"),
        (["--database", "nonsense"], "cannot use the database nonsense"),
        (["--guidance-scale", "1000"], "1000"),
        (["--device", "quantum"], "cannot use the device quantum"),
        (["--lora", "runs/style"], "--lora runs/style: give a name of letters and digits"),
        (["--lora", "style=/no/such/file"], "no LoRA at /no/such/file"),
        (["--max-workers", "2"], "--min-workers and --max-workers need --ray"),
        (["--ray", "auto", "--workers", "2"], "with --ray, give --min-workers and --max-workers in place of --workers"),
        (["--ray", "auto", "--min-workers", "2", "--max-workers", "1"], "at least 2 and at most 1 workers cannot be"),
        (["--ray", "auto", "--device", "cuda:1"], "with Ray, the device is cpu or cuda, not cuda:1"),
        (["--ray", "ray://example.org:10001"], "--ray ray://example.org:10001: give auto, or HOST:PORT"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["serve", "--port", "0", "--data-dir", str(tmp_path / "data"), *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_model_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(memory, "available_memory", lambda _: memory.OVERHEAD + 10**7)
    assert run(["serve", "--port", "0", "--data-dir", str(tmp_path), "--device", "cpu"]) == 2
    assert "this needs about" in capsys.readouterr().err


def test_a_ray_cluster_that_does_not_answer_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ray", reason="ray is not installed")
    arguments = ["serve", "--port", "0", "--data-dir", str(tmp_path), "--ray"]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert run([*arguments, address]) == 1
    assert f"no Ray cluster answers at {address}: " in capsys.readouterr().err
    monkeypatch.setattr("starflow.serve.ray_pool.canonicalize_bootstrap_address", lambda address: None)
    assert run([*arguments, "auto"]) == 1
    assert "no Ray cluster runs on this machine: start one with ray start --head" in capsys.readouterr().err


def test_without_ray_a_line_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("starflow.cli.common.find_spec", lambda name: None if name == "ray" else find_spec(name))
    assert run(["serve", "--data-dir", str(tmp_path), "--ray", "auto"]) == 1
    assert "needs the extra 'ray' (ray not found)" in capsys.readouterr().err


def test_a_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", "--port", str(port), "--data-dir", str(tmp_path)]) == 1
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "starflow", "serve", "--port", "0", "--model", tmp_path / "model"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--data-dir", tmp_path / "data"], stderr=log)
    try:
        until(lambda: "serving model at " in (tmp_path / "log").read_text())
        url = (tmp_path / "log").read_text().split("serving model at ")[1].split()[0]
        until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        response = httpx.post(f"{url}/v1/videos/sync", json={"prompt": "a red circle"}, timeout=60)
        assert response.headers["Content-Type"] == "video/mp4"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) in (0, 130)
    finally:
        process.kill()
        process.wait()
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text
    assert "KeyboardInterrupt" not in log_text


@pytest.mark.parametrize("has_browser", [True, False])
def test_the_page_is_opened_once_the_server_listens(
    has_browser: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or has_browser)
    monkeypatch.setattr("starflow.serve.run.listen", lambda settings, announce: announce("http://127.0.0.1:1"))
    output = ""

    def has_said(text: str) -> bool:
        nonlocal output
        output += "".join(capsys.readouterr())
        return text in output

    assert run(["serve", "--data-dir", str(tmp_path), "--device", "cpu"]) == 0
    assert opened == []
    assert run(["serve", "--data-dir", str(tmp_path), "--device", "cpu", "--open"]) == 0
    until(lambda: opened == ["http://127.0.0.1:1"])
    assert has_said("serving toyworld at http://127.0.0.1:1")
    if not has_browser:
        until(lambda: has_said("no browser was found: open http://127.0.0.1:1 yourself"))
