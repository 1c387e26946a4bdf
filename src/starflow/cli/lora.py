"""The option `--lora`, and applying its adapters to a pipeline."""

import re
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from starflow.errors import UsageError

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline


class Lora(NamedTuple):
    """An adapter: its file, folder or hub id, and its weight."""

    source: str
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.source}:{self.scale:g}"


def parse_lora(text: str) -> Lora:
    """Parse `PATH` or `PATH:SCALE`. Raises UsageError if the scale is not a finite number."""
    source, _, scale = text.rpartition(":")
    if not source or Path(text).exists():
        return Lora(text)
    try:
        parsed = Lora(source, float(scale))
    except ValueError:
        parsed = Lora(source, float("nan"))
    if not isfinite(parsed.scale):
        raise UsageError(f"the scale of --lora {text} must be a number, as in {source}:0.8")
    return parsed


def parse_named_loras(texts: Sequence[str]) -> dict[str, str]:
    """Parse several `NAME=PATH`. Raises UsageError if a name is missing, is not a word, or is given twice."""
    loras: dict[str, str] = {}
    for text in texts:
        name, _, source = text.partition("=")
        if not source or not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
            raise UsageError(f"--lora {text}: give a name of letters and digits, and the LoRA, as in style={text}")
        if name in loras:
            raise UsageError(f"--lora {text}: there is another LoRA called {name!r}")
        loras[name] = source
    return loras


def lora_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--lora`, whose values are the argument `loras`."""
    return click.option(
        "--lora",
        "loras",
        multiple=True,
        metavar="PATH[:SCALE]",
        callback=lambda _, __, values: [parse_lora(value) for value in values],
        help="A LoRA for the model: a file, a folder or a hub id, and its weight. It can be given several times. "
        "[default weight: 1]",
    )(command)


def apply_loras(pipeline: "StarFlowPipeline", loras: Sequence[Lora]) -> None:
    """Add adapters to the weights of a pipeline; with quantized weights, they stay apart.

    Raises StarflowError as `load_lora_weights` does.
    """
    if not loras:
        return
    from starflow.pipeline.lora import is_quantized

    names = [f"lora_{index}" for index in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        pipeline.load_lora_weights(lora.source, name)
    pipeline.set_adapters(names, [lora.scale for lora in loras])
    if not is_quantized(pipeline.flow):
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
