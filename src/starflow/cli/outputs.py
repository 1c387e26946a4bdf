"""The videos that `starflow generate` makes: their prompts, their samples and their paths."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from starflow.errors import UsageError

EXTENSIONS = (".mp4", ".gif", ".webp", ".png")
MAX_SLUG = 60  # characters


class Output(NamedTuple):
    """A video to make: its prompt and its path."""

    prompt: str
    path: str


def output_of(prompt: str, output: str | None) -> list[Output]:
    """The only video of a prompt."""
    return [Output(prompt, output or "video.mp4")]


def outputs_in_folder(prompts: Sequence[str], samples: int, output: str | None, name: str | None) -> list[Output]:
    """The videos of each prompt in turn, in a folder.

    Args:
        prompts: the prompts.
        samples: videos of each prompt.
        output: the folder; None: `videos`.
        name: of each file, in which `{prompt}`, `{slug}` (the words of the prompt), `{number}` (of the prompt) and
            `{index}` (of the sample) are replaced; the numbers begin with 0. Without an extension, it is an .mp4.

    Raises:
        UsageError: the output is a file, or the name has an unknown field or names two videos alike.
    """
    folder = Path(output or "videos")
    if folder.suffix in EXTENSIONS and not folder.is_dir():
        raise UsageError(f"several videos need a folder: name one with -o, not {folder}")
    name = name or ("{number}-{slug}" if samples == 1 else "{number}-{slug}-{index}")
    extension = "" if Path(name).suffix in EXTENSIONS else ".mp4"
    outputs = [
        Output(prompt, str(folder / (_filled(name, prompt, number, index) + extension)))
        for number, prompt in enumerate(prompts)
        for index in range(samples)
    ]
    paths = [each.path for each in outputs]
    if repeated := next((path for path in paths if paths.count(path) > 1), None):
        raise UsageError(f"--name {name} gives two videos the name {Path(repeated).name}: add {{number}} or {{index}}")
    return outputs


def _filled(name: str, prompt: str, number: int, index: int) -> str:
    values = {
        "prompt": re.sub(r"[/\\]", "-", prompt),
        "slug": _slug(prompt),
        "number": f"{number:03d}",
        "index": str(index),
    }
    known = ", ".join(f"{{{field}}}" for field in values)

    def value(field: re.Match[str]) -> str:
        if field[1] not in values:
            raise UsageError(f"--name knows no {field[0]}: use {known}")
        return values[field[1]]

    return re.sub(r"\{(.*?)\}", value, name)


def _slug(prompt: str) -> str:
    """The first words of a prompt, joined by hyphens."""
    slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")
    if len(slug) > MAX_SLUG:
        slug = slug[:MAX_SLUG].rpartition("-")[0] or slug[:MAX_SLUG]
    return slug or "video"
