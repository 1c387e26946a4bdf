"""The container and the systemd unit in integrations/, by reading: nothing here can build or start them."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from server_helpers import Client
from starflow.cli.serve import serve

ROOT = Path(__file__).parents[2]
INTEGRATIONS = ROOT / "integrations"


def check_command(words: list[str]) -> None:
    """The words after `starflow` are a command with options that it has."""
    assert words[0] == "serve"
    options = {name for parameter in serve.params for name in parameter.opts}
    used = {word for word in words if word.startswith("--")}
    assert used
    assert used <= options


def test_the_container_runs_a_command_that_exists_without_root():
    text = (INTEGRATIONS / "Dockerfile").read_text().replace("\\\n", "")
    steps = [line.partition(" ")[::2] for line in text.splitlines() if line and not line.startswith("#")]
    names = [name for name, _ in steps]
    copied = [word for name, rest in steps if name == "COPY" for word in rest.split()[:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    allowed = re.findall(r"^!(.+)$", (INTEGRATIONS / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(allowed) == set(copied)
    installed = re.findall(r"'\.\[(\w+)\]'", " ".join(rest for name, rest in steps if name == "RUN"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert installed == ["serve"]
    assert "serve" in extras
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert dict(steps)["USER"] == "10001"  # a number, so that an orchestrator can see that it is not root
    program, *words = json.loads(dict(steps)["ENTRYPOINT"])
    assert program == "starflow"
    check_command(words)


def test_the_health_check_of_the_container_notices_a_server_that_is_gone(client: Client):
    text = (INTEGRATIONS / "Dockerfile").read_text()
    _, flag, code = json.loads(re.search(r"^    CMD (.*)$", text, re.MULTILINE)[1])
    for url, expected in ((client.url, 0), ("http://127.0.0.1:1", 1)):
        command = [sys.executable, flag, code.replace("http://127.0.0.1:8000", url)]
        assert subprocess.run(command, capture_output=True, timeout=30).returncode == expected


def test_the_unit_runs_a_command_that_exists(tmp_path: Path):
    path = INTEGRATIONS / "starflow.service"
    command = re.search(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE)[1]
    program, *words = shlex.split(command)
    assert program.endswith("/bin/starflow")
    check_command(words)
    if shutil.which("systemd-analyze"):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace(program, sys.executable))
        result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
        assert path.name not in result.stderr, result.stderr
