"""Video-to-video: how often an edit happens, and how often everything else stays the same.

The sources are held-out clips. The ceiling is the autoencoder's reconstructions of the correctly edited clips. The
floor is the sources without any edit.

Legend: `n` edits, `F` video frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.generation import generate, sampling_results
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.settings import EvaluationSettings
from starflow.evaluation.statistics import proportion, summary
from starflow.media.frames import Frames
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.prompts import held_out_clips
from starflow.toyworld.reader.checker import ATTRIBUTES, CheckResult, check
from starflow.toyworld.world.captions import describe_scene
from starflow.toyworld.world.edits import EditKind, parse_edit
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene

PURPOSE = 7  # of noise
NUM_SHOWN = 4
KINDS: tuple[EditKind, ...] = get_args(EditKind)
SOURCES = ("one object", "two objects")  # by the number of objects in the source
EDITED_ATTRIBUTE: dict[EditKind, str] = {"recolor": "color", "reshape": "shape"}  # of one object


@dataclass(frozen=True)
class EditTask:
    """An instruction, the scene before the edit, and the scene after it."""

    instruction: str
    source: Scene
    target: Scene

    @property
    def kind(self) -> EditKind:
        """The kind of the edit."""
        return parse_edit(self.instruction).kind


def held_out_edits(seed: int, num_edits: int) -> list[EditTask]:
    """An edit of each of the first held-out clips."""
    clips = held_out_clips(seed, num_edits)
    tasks = []
    for index in range(num_edits):
        instruction, target = clips.edited_scene(index)
        tasks.append(EditTask(instruction, clips.scene(index), target))
    return tasks


def evaluate_video_to_video(
    pipeline: StarFlowPipeline, tasks: Sequence[EditTask], settings: EvaluationSettings
) -> Measured:
    """Edit the source of each task.

    Returns:
        `num_edits`; `generated`, `ceiling` and `floor`, see `judge_edits`; and `sampling`.

    Raises:
        StarflowError: NaN in a sample.
    """
    sources = np.stack([render(task.source) for task in tasks])
    targets = np.stack([render(task.target) for task in tasks])
    instructions = [task.instruction for task in tasks]
    generated, report = generate(
        pipeline, instructions, settings, "video to video", purpose=PURPOSE, given={"video": sources}
    )
    ceiling = reconstruct(pipeline, targets, "video to video: ceiling").frames
    results = {
        "num_edits": len(tasks),
        "generated": judge_edits(generated, tasks),
        "ceiling": judge_edits(ceiling, tasks),
        "floor": judge_edits(sources, tasks),
        "sampling": sampling_results(report),
    }
    shown = zip(instructions[:NUM_SHOWN], sources, generated, targets, strict=False)
    cards = [
        Card(instruction, {"source": source, "made": made, "true": true}) for instruction, source, made, true in shown
    ]
    return Measured(results, cards)


def judge_edits(clips: Frames, tasks: Sequence[EditTask]) -> dict[str, Any]:
    """Judge edited clips `(n, F, height, width, 3)`, which should show the targets of the tasks.

    Returns:
        Proportions of the clips for each key of `judge_edit`; `happened`, `stayed` and `both` for each kind of edit in
        `kinds`, and by the number of objects in the source in `sources`; and `path_error`, the distance in px of an
        object's center from its place in the target, a summary over the objects that are found, or None.
    """
    rows, errors = [], []
    for clip, task in zip(clips, tasks, strict=True):
        asked = describe_scene(task.target)
        result = check(clip, asked)
        rows.append(judge_edit(result, task))
        errors += _path_errors(result, check(render(task.target), asked))
    return {
        **{name: proportion(row[name] for row in rows) for name in rows[0]},
        "kinds": _by_group(KINDS, [task.kind for task in tasks], rows),
        "sources": _by_group(SOURCES, [SOURCES[len(task.source.objects) - 1] for task in tasks], rows),
        "path_error": summary(torch.tensor(errors)) if errors else None,
    }


def _by_group(
    groups: Sequence[str], group_of: Sequence[str], rows: Sequence[dict[str, bool | None]]
) -> dict[str, dict[str, Any]]:
    """Proportions of the rows of each group; `group_of` has the group of each row."""
    own = {group: [row for row, its in zip(rows, group_of, strict=True) if its == group] for group in groups}
    return {
        group: {name: proportion(row[name] for row in own[group]) for name in ("happened", "stayed", "both")}
        for group in groups
    }


def judge_edit(result: CheckResult, task: EditTask) -> dict[str, bool | None]:
    """Judge one edit by the checker's comparison of the clip with the target.

    An object counts as removed if the number of objects is right and one of them has a color of the target.

    Returns:
        `happened`: the edit is there. `stayed`: everything else is the same, which is all of `color`, `shape`, `size`
        and `motion` (of every object), `count` and `background`; each of these is None if the edit changes it. `both`.
    """
    kind = task.kind
    edited = next((i for i, item in enumerate(task.target.objects) if item not in task.source.objects), None)
    rest: dict[str, bool | None] = {}
    for name in ATTRIBUTES:
        held = [
            getattr(item, name)
            for index, item in enumerate(result.objects)
            if (index, name) != (edited, EDITED_ATTRIBUTE.get(kind))
        ]
        rest[name] = all(held) if held else None
    rest["count"] = None if kind == "remove" else result.count
    rest["background"] = None if kind == "background" else result.background
    stayed = False not in rest.values()
    happened = {
        "background": bool(result.background),
        "remove": result.count and any(item.color for item in result.objects),
    }.get(kind)
    if edited is not None:
        happened = bool(getattr(result.objects[edited], EDITED_ATTRIBUTE[kind]))
    return {"happened": happened, "stayed": stayed, "both": bool(happened) and stayed, **rest}


def _path_errors(result: CheckResult, truth: CheckResult) -> list[float]:
    """For each object found in both, the mean distance in px over the frames in which it is seen in both."""
    errors = []
    for made, true in zip(result.objects, truth.objects, strict=True):
        if made.found is not None and true.found is not None:
            distances = np.linalg.norm(made.found.centers - true.found.centers, axis=1)
            errors.append(float(np.nanmean(distances)))
    return [error for error in errors if not np.isnan(error)]
