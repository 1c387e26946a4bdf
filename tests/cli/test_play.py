"""`starflow play` as a process."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from play_helpers import unpacked
from starflow.cli.main import run


@contextmanager
def playing(*arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, and the URL of its page."""
    command = [sys.executable, "-m", "starflow", "play", *arguments, "--port", "0", "--no-open"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        yield process, re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    finally:
        process.kill()
        process.wait()


def test_a_model_is_played_until_it_is_interrupted(model: str):
    with playing(model, "--prompt", "a red circle moves right", "--seed", "3") as (process, url):
        assert "starflow play" in httpx.get(url, timeout=120).text  # it waits for the model
        with connect(url.replace("http", "ws") + "/play", proxy=None) as socket:
            assert json.loads(socket.recv(timeout=60))["model"] == Path(model).name
            header, _ = unpacked(socket.recv(timeout=60))
            assert (header["seed"], header["prompt"]) == (3, "a red circle moves right")
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "no model at no-such-model"),
        (["toyworld", "--start", "hall"], "no start 'hall': the starts of this model are none"),
        (["toyworld", "--start", "hall", "--clip", __file__], "exclude each other"),
        (["toyworld", "--clip", __file__], "test_play.py"),
        (["toyworld", "--device", "quantum"], "cannot use the device quantum"),
        (["toyworld", "--port", "70000"], "70000"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    options = [] if "--port" in arguments else ["--port", "0"]
    assert run(["play", *arguments, *options, "--no-open"]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_port_that_is_taken_is_one_line(model: str, capsys: pytest.CaptureFixture[str]):
    with playing(model) as (_, url):
        port = url.rpartition(":")[2]
        assert run(["play", model, "--port", port, "--no-open"]) == 1
        assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err
