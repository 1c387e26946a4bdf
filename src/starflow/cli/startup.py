"""A fast start: what the process of a command imports, and how its threads wait.

Measured by `benchmarks/startup.py`.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def save_cpu_time() -> None:
    """Let the threads of torch sleep while they wait for work, instead of spinning.

    Small models have many short waits: spinning takes most of their CPU time, and makes them slow on a busy machine.
    OpenMP reads the setting when torch is imported, so call this first. A user's own setting is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def import_libraries(*, quantized: bool, lora: bool = False) -> None:
    """Import the pipeline, and the libraries that it needs, in as little time as possible.

    diffusers and transformers import scipy, torchao and peft if they find them, which takes as long as importing torch.
    The pipeline needs none of them, except torchao for quantized weights and peft for LoRA. Once diffusers has been
    imported without them, it cannot load quantized weights or LoRA in this process.

    Args:
        quantized: whether weights are quantized, or stored quantized.
        lora: whether LoRA adapters are loaded.
    """
    if "diffusers" in sys.modules:
        return
    unused = ["scipy", *([] if quantized else ["torchao"]), *([] if lora else ["peft"])]
    with _without_packages(*unused), _without_garbage_collection():
        import_module("starflow.pipeline.pipeline")


@contextmanager
def _without_packages(*names: str) -> Iterator[None]:
    """Make packages look as if they were not installed: importing a module that is None in `sys.modules` fails."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage, and never look again for garbage among the objects made: modules stay until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
