"""Video-to-video: how often an edit happens, and how often everything else stays as it was.

The sources are held-out clips, the instructions those of `toyworld.world.edits`. Beside the edited clips stand a
ceiling, the VAE's reconstructions of what the edits should lead to, and a floor, the sources as they are.

Legend: `n` edits, `F` video frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

from starflow.evaluation.clips import Frames
from starflow.evaluation.generation import SamplingSettings, generate, sampling_results
from starflow.evaluation.measured import Card, Measured
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.statistics import proportion, summary
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.reader.checker import ATTRIBUTES, CheckResult, check
from starflow.toyworld.world.captions import describe_scene
from starflow.toyworld.world.edits import EditKind, parse_edit, sample_edit
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, scene_at

PURPOSE = 7  # of noise
KINDS: tuple[EditKind, ...] = get_args(EditKind)
SOURCES = ("one object", "two objects")  # what is in a clip that is edited
EDITED_ATTRIBUTE: dict[EditKind, str] = {"recolor": "color", "reshape": "shape"}  # of one object


@dataclass(frozen=True)
class EditTask:
    """An instruction, the scene that it is about, and the one that it leads to."""

    instruction: str
    source: Scene
    target: Scene

    @property
    def kind(self) -> EditKind:
        """What is edited."""
        return parse_edit(self.instruction).kind


def held_out_edits(seed: int, num_edits: int) -> list[EditTask]:
    """An edit of each of the first scenes of toyworld's test split."""
    tasks = []
    for index in range(num_edits):
        source = scene_at(seed, index, "test")
        instruction, target = sample_edit(source, np.random.default_rng([seed, index, 3]))
        tasks.append(EditTask(instruction, source, target))
    return tasks


def evaluate_video_to_video(
    pipeline: StarFlowPipeline, tasks: Sequence[EditTask], settings: SamplingSettings, codec_batch: int, num_shown: int
) -> Measured:
    """Edit the clip of each task's source.

    Returns:
        For `generated`, `ceiling` and `floor`, see `judge_edits`.

    Raises:
        StarflowError: NaN in what was sampled.
    """
    sources = np.stack([render(task.source) for task in tasks])
    targets = np.stack([render(task.target) for task in tasks])
    instructions = [task.instruction for task in tasks]
    generated, report = generate(
        pipeline, instructions, settings, "video to video", purpose=PURPOSE, given={"video": sources}
    )
    ceiling = reconstruct(pipeline.codec, targets, codec_batch, "video to video: ceiling").frames
    results = {
        "num_edits": len(tasks),
        "generated": judge_edits(generated, tasks),
        "ceiling": judge_edits(ceiling, tasks),
        "floor": judge_edits(sources, tasks),
        "sampling": sampling_results(report),
    }
    shown = zip(instructions[:num_shown], sources, generated, targets, strict=False)
    cards = [
        Card(instruction, {"source": source, "made": made, "true": true}) for instruction, source, made, true in shown
    ]
    return Measured(results, cards)


def judge_edits(clips: Frames, tasks: Sequence[EditTask]) -> dict[str, Any]:
    """What the checker says of clips `(n, F, height, width, 3)` that should show the targets of tasks.

    Returns:
        Proportions of the clips: see `judge_edit`; `both`, happened and stayed; these three for each kind of edit in
        `kinds`, and for clips of one and of two objects in `sources`. `path_error`: summary, in px, of the mean
        distance of an object's center from where the checker sees it in the target, over the objects that are found;
        None if none is.
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
    """Proportions of the rows of each group; `group_of` says which one a row belongs to."""
    own = {group: [row for row, its in zip(rows, group_of, strict=True) if its == group] for group in groups}
    return {
        group: {name: proportion(row[name] for row in own[group]) for name in ("happened", "stayed", "both")}
        for group in groups
    }


def judge_edit(result: CheckResult, task: EditTask) -> dict[str, bool | None]:
    """Whether an edit happened and the rest stayed, by what the checker says of everything in the target.

    An object is removed if as many are left as should be, and one of them has the color of one that should be.

    Returns:
        `happened`; `stayed`, that is all of `color`, `shape`, `size` and `motion` (of every object), `count` and
        `background`, which are None where they are what was edited; and `both`.
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
    """Of each object that is found in both: px, mean over the frames in which it is seen in both."""
    errors = []
    for made, true in zip(result.objects, truth.objects, strict=True):
        if made.found is not None and true.found is not None:
            distances = np.linalg.norm(made.found.centers - true.found.centers, axis=1)
            errors.append(float(np.nanmean(distances)))
    return [error for error in errors if not np.isnan(error)]
