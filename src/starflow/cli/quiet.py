"""Keeping the chatter of third-party libraries off the terminal: what a user must know, starflow says itself."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence warnings and log lines below errors. Imports nothing heavy: the libraries read these when they load."""
    warnings.simplefilter("ignore")
    for variable, value in {
        "DIFFUSERS_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(variable, value)
    for library in ("torch", "torch.utils._pytree", "torchao"):  # torch sets its own level anew when it loads
        logging.getLogger(library).setLevel(logging.ERROR)


def hide_loading_bars() -> None:
    """Hide the bars of reading weights; downloads keep theirs. Imports the libraries, so call it inside a command."""
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    hub_was_quiet = are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # which silences the hub's downloads too
    if not hub_was_quiet:
        enable_progress_bars()
