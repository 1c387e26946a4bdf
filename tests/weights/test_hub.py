"""Errors of failed downloads from the hub, which is mocked."""

import socket
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from starflow.errors import StarflowError
from starflow.weights import hub
from starflow.weights.hub import hub_file, is_reachable, say_download, say_weights

RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch):
    """Not in offline mode, and nothing is known about the hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    is_reachable.cache_clear()
    yield
    is_reachable.cache_clear()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalEntryNotFoundError("not here"), "the hub cannot be reached, and it is not in the cache; run `hf"),
        (errors.GatedRepoError("gated", response=RESPONSE), "asks you to accept its terms"),
        (errors.RevisionNotFoundError("no", response=RESPONSE), "owner/name on the hub has no revision main2"),
        (errors.RepositoryNotFoundError("no", response=RESPONSE), "the hub has no model owner/name"),
        (errors.RemoteEntryNotFoundError("no", response=RESPONSE), "owner/name on the hub has no file a.json"),
        (errors.HFValidationError("bad name\nand more"), "cannot download a.json of owner/name: bad name$"),
        (OSError("the disk is full"), "cannot download a.json of owner/name: the disk is full"),
    ],
)
def test_a_failed_download_states_its_reason(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: str, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(StarflowError, match=message):
        hub_file("owner/name", "a.json", revision="main2")


def test_offline_mode_is_stated_as_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StarflowError, match=r"offline mode is on \(HF_HUB_OFFLINE\)"):
        hub_file("owner/name", "a.json")


def test_local_files_only_is_stated_as_the_reason(tmp_path: Path):
    with pytest.raises(StarflowError, match="local_files_only is set, and it is not in the cache"):
        hub_file("owner/name", "a.json", cache_dir=tmp_path, local_files_only=True)


def test_without_a_network_the_reason_is_one_line_at_once(online, monkeypatch, tmp_path: Path, capfd):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        start = time.perf_counter()
        for _ in range(2):
            with pytest.raises(StarflowError, match="the hub cannot be reached, and it is not in the cache"):
                hub_file("owner/name", "a.json", cache_dir=tmp_path)
    assert time.perf_counter() - start < 5
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("free", "fits"), [(60e9, True), (50e9, False)])
def test_the_size_of_a_download_is_said_first(free, fits, monkeypatch, tmp_path, caplog: pytest.LogCaptureFixture):
    info = SimpleNamespace(will_download=True, file_size=int(27.6e9))
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, dry_run: info)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with nullcontext() if fits else pytest.raises(StarflowError, match=r"55\.2 GB .* only 50\.0 GB are free"):
        say_download("owner/name", "big.pth", copies=1)
    assert ("big.pth of owner/name takes 27.6 GB" in caplog.text) == fits
    caplog.clear()
    info.will_download = False
    say_download("owner/name", "big.pth", copies=1)
    assert caplog.text == ""


def test_the_size_of_a_component_is_that_of_its_files_that_are_missing(monkeypatch, tmp_path, caplog):
    asked = []

    def snapshot_download(repository: str, *, allow_patterns: str, dry_run: bool) -> list[SimpleNamespace]:
        asked.append((repository, allow_patterns, dry_run))
        return [SimpleNamespace(will_download=missing, file_size=int(1.4e9)) for missing in (True, True, False)]

    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    say_weights("owner/name", "vae")
    assert asked == [("owner/name", "vae/*.safetensors", True)]
    assert "downloading owner/name/vae takes 2.8 GB" in caplog.text
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=2e9))
    with pytest.raises(StarflowError, match=r"2\.8 GB .* only 2\.0 GB are free"):
        say_weights("owner/name")
