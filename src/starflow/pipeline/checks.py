"""Checks of the arguments of a call that are not options of the video."""

from collections.abc import Sequence
from typing import Any

import torch

from starflow.errors import UsageError


def checked_prompts(prompt: str | Sequence[str]) -> list[str]:
    """The prompts as a list. Raises UsageError if there are none, or one is empty or not a string."""
    if not isinstance(prompt, str | Sequence) or not all(isinstance(each, str) for each in prompt):
        raise UsageError(f"the prompt must be a string or a list of strings, not {prompt!r:.80}")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or any(not each.strip() for each in prompts):
        raise UsageError('the prompt is empty: describe the video, such as "a red circle moves right"')
    return prompts


def check_generator(generator: Any, num_videos: int) -> None:
    """Raise UsageError unless it is None, a generator, or a list with one for each video."""
    generators = generator if isinstance(generator, list) else [generator] * num_videos
    if any(each is not None and not isinstance(each, torch.Generator) for each in generators):
        raise UsageError(f"generator must be a torch.Generator or a list of them, not {generator!r:.80}")
    if len(generators) != num_videos:
        raise UsageError(
            f"a list of generators must have one for each of the {num_videos} videos, not {len(generators)}"
        )


def check_output_type(output_type: str, known: Sequence[str]) -> None:
    """Raise UsageError if the output type is unknown."""
    if output_type not in known:
        raise UsageError(f"unknown output type {output_type!r}: choose one of {', '.join(known)}")
