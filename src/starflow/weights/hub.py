"""Downloading files from the Hugging Face hub."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starflow.errors import StarflowError

if TYPE_CHECKING:
    from huggingface_hub.file_download import DryRunFileInfo

logger = logging.getLogger(__name__)

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
SECONDS_TO_ANSWER = 4  # of the hub: without a network, a command waits no longer


@lru_cache
def is_reachable() -> bool:
    """Whether the hub answers. The libraries would retry for half a minute; this asks once in a process."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS_TO_ANSWER)
    except Exception:  # of the library for requests, which differs between versions of the hub's
        return False
    return True


def only_local_if_unreachable(hub: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with `local_files_only` if the hub does not answer: cached files are then found at once."""
    return {**hub, **({} if is_reachable() else {"local_files_only": True})}


def say_download(repository: str, filename: str, copies: int) -> None:
    """Log the size of a file that will be downloaded.

    Raises StarflowError if the disk has no space for it and, with `copies`, for what is made from it.
    """
    from huggingface_hub import hf_hub_download

    if not is_reachable():
        return
    try:
        info = hf_hub_download(repository, filename, dry_run=True)
    except Exception:  # the download fails for the same reason, and says it
        return
    _say_size(f"{filename} of {repository}", [info], copies)


def say_weights(repository: str, subfolder: str = "") -> None:
    """Log the size of the safetensors files of a repository or of a folder in it, if they will be downloaded.

    Raises StarflowError if the disk has no space for them.
    """
    from huggingface_hub import snapshot_download

    if not is_reachable():
        return
    try:
        infos = snapshot_download(repository, allow_patterns=str(Path(subfolder, "*.safetensors")), dry_run=True)
    except Exception:  # the download fails for the same reason, and says it
        return
    _say_size(f"{repository}/{subfolder}" if subfolder else repository, infos, copies=0)


def _say_size(what: str, infos: "Sequence[DryRunFileInfo]", copies: int) -> None:
    from huggingface_hub import constants

    size = sum(info.file_size or 0 for info in infos if info.will_download)
    if not size:
        return
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    needed, free = size * (1 + copies), shutil.disk_usage(cache).free
    sizes = f"downloading {what} takes {size / 1e9:.1f} GB in {cache}"
    if copies:
        sizes += f", and {needed / 1e9:.1f} GB with the converted model"
    if free < needed:
        raise StarflowError(f"{sizes}: only {free / 1e9:.1f} GB are free")
    logger.warning(sizes)


def hub_file(repository: str, filename: str, **hub: Any) -> Path:
    """The path of a file of a model repository in the local cache, downloaded if it is not there.

    `hub` are options of `huggingface_hub.hf_hub_download`, such as `cache_dir`, `revision` and `token`.
    Raises StarflowError if the repository or the file does not exist, or cannot be downloaded and is not in the cache.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    asked_local = hub.get("local_files_only")
    try:
        return Path(hf_hub_download(repository, filename, **only_local_if_unreachable(hub)))
    except errors.LocalEntryNotFoundError as error:
        why = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        if asked_local:
            why = "local_files_only is set"
        raise StarflowError(
            f"cannot download {filename} of {repository}: {why}, and it is not in the cache; run `hf download "
            f"{repository} {filename}` with a network, or give a folder"
        ) from error
    except errors.GatedRepoError as error:
        raise StarflowError(
            f"{repository} asks you to accept its terms: do so on huggingface.co/{repository}, then run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise StarflowError(f"the model {repository} on the hub has no revision {hub.get('revision')}") from error
    except errors.RepositoryNotFoundError as error:
        raise StarflowError(f"the hub has no model {repository}, or it is private") from error
    except errors.EntryNotFoundError as error:
        raise StarflowError(f"the model {repository} on the hub has no file {filename}") from error
    except (errors.HFValidationError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise StarflowError(f"cannot download {filename} of {repository}: {reason}") from error
