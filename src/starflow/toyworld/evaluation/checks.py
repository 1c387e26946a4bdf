"""The evaluation of a toyworld model: the general measurements on held-out clips, and toyworld's own checks.

The keys that these checks add to `evaluation.json` (see `starflow.evaluation.run` for the others and for the terms).
The ceiling is the same measurement on true clips through the autoencoder.

    model.settings
      prompts, num_prompts, num_two_object_prompts, task_clips, long_clips, long_seconds
    surprise: see `evaluate_surprise`
    compliance
      prompts: "held out", or the name of a file
      one_object, two_objects: null, or see `evaluate_compliance`
    tasks: null, or
      image_to_video, continuation, video_to_video, last_frame: see the functions that `evaluate_tasks` calls
    drift: null, or see `evaluate_drift`
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from starflow.errors import UsageError
from starflow.evaluation.contract import Check, Findings
from starflow.evaluation.report.pieces import share
from starflow.evaluation.run import Evaluation, evaluate
from starflow.evaluation.settings import EvaluationSettings
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation import page
from starflow.toyworld.evaluation.compliance import evaluate_compliance
from starflow.toyworld.evaluation.drift import evaluate_drift
from starflow.toyworld.evaluation.prompts import Prompt, held_out_clips, held_out_prompts, read_prompts
from starflow.toyworld.evaluation.surprise import evaluate_surprise
from starflow.toyworld.evaluation.tasks import evaluate_tasks
from starflow.toyworld.world.captions import parse
from starflow.toyworld.world.vocabulary import FPS, FRAME_SIZE, NUM_FRAMES

GROUPS = {"one_object": 1, "two_objects": 2}
MAX_SURPRISE_CLIPS = 50  # of each violation


@dataclass(frozen=True)
class ToyworldSettings:
    """What toyworld's checks measure.

    Attributes:
        num_prompts, num_two_object_prompts: held-out captions of one object and of two.
        task_clips: held-out clips for each task besides text-to-video, and half the number of edits; 0 for none.
        long_clips, long_seconds: the number of long videos, 0 for none, and their length.
        prompts: a file of captions to use instead of the held-out ones.
    """

    num_prompts: int = 200
    num_two_object_prompts: int = 100
    task_clips: int = 50
    long_clips: int = 20
    long_seconds: int = 30
    prompts: Path | None = None


def evaluate_toyworld(
    pipeline: StarFlowPipeline,
    settings: EvaluationSettings,
    toyworld: ToyworldSettings,
    name: str,
    tell: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure a toyworld model on held-out clips, with toyworld's checks; `name` and `tell` as in `evaluate`.

    Raises:
        UsageError: the model makes other videos than toyworld's, or a caption of the file is not one of toyworld's.
        StarflowError: NaN in a sample or a measurement.
    """
    source = held_out_clips(settings.seed, settings.num_clips)
    checks = toyworld_checks(pipeline, settings, toyworld)
    return evaluate(pipeline, source, settings, name, checks=checks, meaning=objects_said, tell=tell)


def objects_said(caption: str) -> Hashable:
    """The color, shape and motion of each object in a caption. Only some captions also say sizes and a background."""
    return tuple(sorted((item.color, item.shape, item.motion) for item in parse(caption).objects))


def toyworld_checks(
    pipeline: StarFlowPipeline, settings: EvaluationSettings, toyworld: ToyworldSettings
) -> list[Check]:
    """The checks of a toyworld model. Raises UsageError as `evaluate_toyworld`."""
    _require_toyworld(pipeline)
    prompts = _prompts(settings.seed, toyworld)
    prompts_name = "held out" if toyworld.prompts is None else toyworld.prompts.name

    def surprise() -> Findings:
        measured = evaluate_surprise(pipeline, settings.seed, min(settings.num_clips, MAX_SURPRISE_CLIPS))
        return Findings(measured.results, page.surprise_section(measured))

    def compliance() -> Findings:
        measured = {
            group: evaluate_compliance(pipeline, prompts[group], settings, _words(group))
            for group in GROUPS
            if prompts[group]
        }
        titles = {group: _words(group).capitalize() for group in measured}
        return Findings(
            {"prompts": prompts_name}
            | dict.fromkeys(GROUPS)
            | {group: each.results for group, each in measured.items()},
            "".join(page.compliance_section(each, titles[group], prompts_name) for group, each in measured.items()),
            [
                (f"{_words(group)}: {page.COMPLIANCE_ROWS[key]}", f"{share(each.results['generated'][key])} clips")
                for group, each in measured.items()
                for key in ("color_shape_motion", "all")
            ],
        )

    def tasks() -> Findings:
        if not toyworld.task_clips:
            return Findings(None)
        measured = evaluate_tasks(pipeline, toyworld.task_clips, settings)
        return Findings({name: task.results for name, task in measured.items()}, page.tasks_section(measured))

    def drift() -> Findings:
        if not toyworld.long_clips:
            return Findings(None)
        one_object = held_out_prompts(settings.seed, toyworld.long_clips, 1)
        measured = evaluate_drift(pipeline, one_object, toyworld.long_seconds, settings)
        return Findings(measured.results, page.drift_section(measured))

    numbers = {"num_prompts": len(prompts["one_object"]), "num_two_object_prompts": len(prompts["two_objects"])}
    return [
        Check("compliance", compliance, {"prompts": prompts_name} | numbers),
        Check("tasks", tasks, {"task_clips": toyworld.task_clips}),
        Check("drift", drift, {"long_clips": toyworld.long_clips, "long_seconds": toyworld.long_seconds}),
        Check("surprise", surprise),
    ]


def _require_toyworld(pipeline: StarFlowPipeline) -> None:
    config = pipeline.config
    own = (config.num_frames, config.width, config.height, config.fps)
    if own != (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, FPS):
        raise UsageError(
            f"this model makes {own[0]} frames of {own[1]}×{own[2]} at {own[3]:g} per second, but toyworld's clips "
            f"are {NUM_FRAMES} frames of {FRAME_SIZE}×{FRAME_SIZE} at {FPS}: measure it on other clips with --data"
        )


def _prompts(seed: int, toyworld: ToyworldSettings) -> dict[str, list[Prompt]]:
    """The captions, by the number of objects."""
    if toyworld.prompts is None:
        numbers = {"one_object": toyworld.num_prompts, "two_objects": toyworld.num_two_object_prompts}
        return {group: held_out_prompts(seed, numbers[group], GROUPS[group]) for group in GROUPS}
    prompts = read_prompts(toyworld.prompts, seed)
    return {group: [each for each in prompts if len(each.description.objects) == n] for group, n in GROUPS.items()}


def _words(group: str) -> str:
    return group.replace("_", " ")
