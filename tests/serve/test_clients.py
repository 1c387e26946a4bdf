"""The clients in integrations/clients, each run where its program is."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server_helpers import Client

FOLDER = Path(__file__).parents[2] / "integrations" / "clients"
CLIENTS = {"client.py": [sys.executable, "-Wignore"], "client.sh": ["sh"], "client.mjs": ["node"]}
NEEDED = {"client.py": sys.executable, "client.sh": "curl", "client.mjs": "node"}


def run_client(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(NEEDED[name]) is None:
        pytest.skip(f"there is no {NEEDED[name]}")
    command = [*CLIENTS[name], str(FOLDER / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_makes_a_video(name: str, client: Client, tmp_path: Path):
    path = tmp_path / "clip.mp4"
    prompt = 'two "green" triangles; bounce=1 @home'
    result = run_client(name, client.url, prompt, str(path))
    assert (result.returncode, result.stderr) == (0, "")
    newest = client.get("/v1/videos?limit=1").json()["data"][0]
    assert (newest["prompt"], newest["seed"]) == (prompt, 0)
    assert path.read_bytes() == client.get(f"/v1/videos/{newest['id']}/content").content


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_says_what_is_wrong(name: str, client: Client, tmp_path: Path):
    result = run_client(name, client.url, " ", str(tmp_path / "clip.mp4"))
    assert result.returncode != 0
    assert "should match pattern" in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def test_clients_have_about_twenty_lines():
    paths = list(FOLDER.iterdir())
    assert {path.name for path in paths} == CLIENTS.keys()
    assert all(len(path.read_text().splitlines()) <= 25 for path in paths)
