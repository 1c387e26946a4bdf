"""Hide warnings, log messages and progress bars of third-party libraries."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Hide warnings and log messages below errors. Imports nothing heavy: libraries read these settings on import."""
    warnings.simplefilter("ignore")
    for variable, value in {
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(variable, value)
    for library in ("torch.utils._pytree", "torchao"):
        logging.getLogger(library).setLevel(logging.ERROR)


def hide_loading_bars() -> None:
    """Hide the progress bars of loading weights, not of downloads. Imports heavy libraries: call it in a command."""
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    hub_was_quiet = are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # this also hides the bars of the hub's downloads
    if not hub_was_quiet:
        enable_progress_bars()
