"""Files from the Hugging Face hub, and what to do when they cannot be had."""

from pathlib import Path

from starflow.errors import StarflowError


def hub_file(repository: str, filename: str) -> Path:
    """Where a file of a repository of models lies on this machine, downloaded if need be.

    Raises StarflowError: there is no such repository or file, or no network (or offline mode) and no copy here.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    try:
        return Path(hf_hub_download(repository, filename))
    except errors.LocalEntryNotFoundError as error:
        why = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise StarflowError(
            f"cannot download {filename} of {repository}: {why}, and there is no copy here; run `hf download "
            f"{repository} {filename}` where there is a network, or give a folder"
        ) from error
    except errors.GatedRepoError as error:
        raise StarflowError(
            f"{repository} wants its terms accepted: do so on huggingface.co/{repository}, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StarflowError(f"there is no model {repository} on the hub, or it is private") from error
    except errors.EntryNotFoundError as error:
        raise StarflowError(f"{repository} on the hub has no file {filename}") from error
    except (errors.HFValidationError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise StarflowError(f"cannot download {filename} of {repository}: {reason}") from error
