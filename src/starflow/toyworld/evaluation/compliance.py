"""Whether generated clips show what their captions say, by the toyworld checker.

Beside the generated clips stand a ceiling, the VAE's reconstructions of true clips of the same captions, and a floor,
the generated clips against each other's captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from starflow.evaluation.clips import Frames
from starflow.evaluation.generation import SamplingSettings, generate, sampling_results
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.statistics import proportion
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.prompts import Prompt
from starflow.toyworld.reader.checker import ATTRIBUTES, CheckResult, check
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import MOTIONS


@dataclass(frozen=True)
class Example:
    """A generated clip `(F, height, width, 3)` and what the checker says of it."""

    prompt: Prompt
    frames: Frames
    check: CheckResult


@dataclass(frozen=True)
class Compliance:
    """Results for `evaluation.json`, and the first generated clips."""

    results: dict[str, Any]
    examples: list[Example]


def evaluate_compliance(
    pipeline: StarFlowPipeline,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    *,
    description: str,
    generate_batch: int,
    codec_batch: int,
    num_shown: int,
) -> Compliance:
    """Generate a clip for each prompt and check it.

    Args:
        pipeline: the model.
        prompts: at least one; all of the same number of objects.
        settings: how to generate.
        description: of the prompts, on the progress bars.
        generate_batch, codec_batch: clips at once.
        num_shown: how many of the first clips to keep.

    Raises:
        StarflowError: NaN in what was sampled.
    """
    captions = [prompt.caption for prompt in prompts]
    num_objects = len(prompts[0].description.objects)
    generated, report = generate(
        pipeline, captions, settings, description, purpose=num_objects, batch_size=generate_batch
    )
    truth = np.stack([render(prompt.scene) for prompt in prompts])
    ceiling = reconstruct(pipeline.codec, truth, codec_batch, f"{description}: ceiling").frames
    checks = _check_all(generated, prompts, f"{description}: checking")
    results = {
        "num_prompts": len(prompts),
        "generated": score(checks),
        "ceiling": score(_check_all(ceiling, prompts, f"{description}: checking the ceiling")),
        "floor": None,
        "sampling": sampling_results(report),
    }
    if len(prompts) > 1:
        shuffled = _shuffled(prompts, settings.seed)
        results["floor"] = score(_check_all(generated, shuffled, f"{description}: checking the floor"))
    examples = [Example(*each) for each in zip(prompts[:num_shown], generated, checks, strict=False)]
    return Compliance(results, examples)


def score(checks: Sequence[CheckResult]) -> dict[str, Any]:
    """Proportions of the clips in which each thing holds, of those whose caption says it.

    `color`, `shape`, `size` and `motion` must hold for every object of the caption; `color_shape_motion` is these three
    at once; `count` is the number of objects, `background` its shade, and `all` everything the caption says, with the
    count. `per_motion` judges the motion of each object that a caption gives this motion.
    """
    rows = [_judge(each) for each in checks]
    motions = [(item.description.motion, item.motion) for each in checks for item in each.objects]
    return {
        **{name: proportion(row[name] for row in rows) for name in rows[0]},
        "per_motion": {motion: proportion(held for said, held in motions if said == motion) for motion in MOTIONS},
    }


def _judge(result: CheckResult) -> dict[str, bool | None]:
    row = {name: _every(getattr(item, name) for item in result.objects) for name in ATTRIBUTES}
    return {
        **row,
        "color_shape_motion": _every(row[name] for name in ("color", "shape", "motion")),
        "count": result.count,
        "background": result.background,
        "all": result.all_correct,
    }


def _every(held: Any) -> bool | None:
    """Whether all that are not None hold; None if there is nothing to judge."""
    judged = [each for each in held if each is not None]
    return all(judged) if judged else None


def _check_all(clips: Frames, prompts: Sequence[Prompt], description: str) -> list[CheckResult]:
    pairs = zip(clips, prompts, strict=True)
    bar = tqdm(pairs, total=len(prompts), desc=description, unit="clip", disable=None)
    return [check(frames, prompt.description) for frames, prompt in bar]


def _shuffled(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Each prompt at another's place: along one random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(len(prompts))
    shuffled = list(prompts)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        shuffled[place] = prompts[source]
    return shuffled
