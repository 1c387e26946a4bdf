"""Whether generated clips show what their captions say, by the toyworld checker.

The ceiling is the autoencoder's reconstructions of true clips with the same captions. The floor is the generated clips
against each other's captions.

Legend: `n` clips, `F` video frames.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.settings import EvaluationSettings
from starflow.evaluation.statistics import proportion
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.prompts import Prompt
from starflow.toyworld.reader.checker import ATTRIBUTES, CheckResult, check
from starflow.toyworld.world.render import render
from starflow.toyworld.world.vocabulary import MOTIONS

NUM_SHOWN = 10
ATTRIBUTE_ORDER = ("size", "color", "shape", "motion")  # as captions say them


def evaluate_compliance(
    pipeline: StarFlowPipeline, prompts: Sequence[Prompt], settings: EvaluationSettings, description: str
) -> Measured:
    """Generate a clip for each prompt and check it.

    Args:
        pipeline: the model.
        prompts: at least one; all have the same number of objects, which is the purpose of their noise.
        settings: how to generate.
        description: of the prompts, for the progress bars.

    Returns:
        `num_prompts`; `generated`, `ceiling` and `floor` (None for a single prompt), see `score`; and `sampling`.

    Raises:
        StarflowError: NaN in a sample.
    """
    captions = [prompt.caption for prompt in prompts]
    num_objects = len(prompts[0].description.objects)
    generated, report = generate(pipeline, captions, settings, description, purpose=num_objects)
    truth = np.stack([render(prompt.scene) for prompt in prompts])
    ceiling = reconstruct(pipeline, truth, f"{description}: ceiling").frames
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
    shown = zip(captions[:NUM_SHOWN], generated, checks, strict=False)
    return Measured(results, [Card(caption, {"": clip}, _marks(checked)) for caption, clip, checked in shown])


def score(checks: Sequence[CheckResult]) -> dict[str, Any]:
    """Proportions of the clips that are right, among those whose caption says the thing.

    Returns:
        `color`, `shape`, `size` and `motion`, right for every object of the caption; `color_shape_motion`, all three at
        once; `count`, the number of objects; `background`, its shade; `all`, everything that the caption says, and the
        count; and `per_motion`, for each motion, the proportion of the objects with this motion that are right.
    """
    rows = [_judge(each) for each in checks]
    motions = [(item.description.motion, item.motion) for each in checks for item in each.objects]
    return {
        **{name: proportion(row[name] for row in rows) for name in rows[0]},
        "per_motion": {motion: proportion(holds for said, holds in motions if said == motion) for motion in MOTIONS},
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


def _every(outcomes: Iterable[bool | None]) -> bool | None:
    """Whether all outcomes that are not None are True; None if there are none."""
    judged = [each for each in outcomes if each is not None]
    return all(judged) if judged else None


def _marks(result: CheckResult) -> list[tuple[str, bool]]:
    """What a caption says, and whether the checker finds it."""
    marks = [
        (getattr(item.description, name), getattr(item, name)) for item in result.objects for name in ATTRIBUTE_ORDER
    ]
    marks += [("number of objects", result.count), ("background", result.background)]
    return [(said, holds) for said, holds in marks if holds is not None]


def _check_all(clips: Frames, prompts: Sequence[Prompt], description: str) -> list[CheckResult]:
    pairs = zip(clips, prompts, strict=True)
    bar = tqdm(pairs, total=len(prompts), desc=description, unit="clip", disable=None)
    return [check(frames, prompt.description) for frames, prompt in bar]


def _shuffled(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The prompts along one random cycle, so that each is at another's place."""
    order = np.random.default_rng(seed).permutation(len(prompts))
    shuffled = list(prompts)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        shuffled[place] = prompts[source]
    return shuffled
