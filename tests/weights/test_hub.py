"""Errors of failed downloads from the hub, which is mocked."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from starflow.errors import StarflowError
from starflow.weights.hub import hub_file

RESPONSE = SimpleNamespace(headers={}, request=None)


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
