"""Downloading files from the Hugging Face hub."""

from pathlib import Path
from typing import Any

from starflow.errors import StarflowError

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def hub_file(repository: str, filename: str, **hub: Any) -> Path:
    """The path of a file of a model repository in the local cache, downloaded if it is not there.

    `hub` are options of `huggingface_hub.hf_hub_download`, such as `cache_dir`, `revision` and `token`.
    Raises StarflowError if the repository or the file does not exist, or cannot be downloaded and is not in the cache.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    try:
        return Path(hf_hub_download(repository, filename, **hub))
    except errors.LocalEntryNotFoundError as error:
        why = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        if hub.get("local_files_only"):
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
