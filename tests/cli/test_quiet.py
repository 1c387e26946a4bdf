import subprocess
import sys

CODE = """
from starflow.cli.quiet import hide_loading_bars, quiet_libraries
quiet_libraries()
import warnings
import diffusers, transformers
import diffusers.quantizers, torchao  # as a pipeline loads them, if torchao is installed
from huggingface_hub.utils import are_progress_bars_disabled
hide_loading_bars()
warnings.warn("chatter")
diffusers.utils.logging.get_logger("diffusers").warning("chatter")
transformers.utils.logging.get_logger("transformers").warning("chatter")
print(diffusers.utils.logging.is_progress_bar_enabled(), end=" ")
print(transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled())
"""


def test_libraries_are_quiet_and_downloads_keep_their_bars():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "False False False"
    assert result.stderr == ""
