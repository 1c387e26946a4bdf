"""Make the videos of a batch of jobs, all of the same size and length, and write them while they are made."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from starflow.media.files import atomic_write
from starflow.media.frames import Frame, to_frames
from starflow.media.writing import Mp4Writer, remux
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import VideoPlan
from starflow.serve.database import Job
from starflow.serve.decoding import read_frames
from starflow.serve.job_files import VARIANTS, fragments_of, inputs_of
from starflow.serve.watch import Watch

SHEET_FRAMES = 10
PICTURES = ("image", "last_image")


def make_videos(pipeline: StarFlowPipeline, jobs: Sequence[Job], folders: Sequence[Path], watch: Watch) -> VideoPlan:
    """Make the video of each job into its folder. Those that are cancelled meanwhile are not written further.

    Returns the plan, which says how long the stages took.

    Raises:
        Aborted: no job is left.
        StarflowError: as the pipeline.
    """
    start = time.perf_counter()
    plan = _plan(pipeline, jobs, folders)
    plan.clock.seconds["text"] = time.perf_counter() - start
    plan.sampling.solvers = watch.checked(plan.sampling.solvers)
    plan.look_ahead = not jobs[0].settings.get("realtime")
    total = plan.sampling.num_frames - plan.sampling.num_given + plan.num_frames
    sampled, decoded, prompt = 0, 0, jobs[0].prompt

    def on_frame(current: StarFlowPipeline, *_: Any) -> None:
        nonlocal sampled, prompt
        sampled += 1
        watch.progress = 100 * (sampled + decoded) // total
        if len(jobs) == 1 and (asked := watch.prompts.get(jobs[0].id, prompt)) != prompt:
            current.steer(plan, asked)
            prompt = asked

    with ExitStack() as stack:
        outputs = [stack.enter_context(_Output(job, folder, plan)) for job, folder in zip(jobs, folders, strict=True)]
        for piece in pipeline.make(plan, 1, callback=on_frame):
            watch.check()
            decoded += piece.shape[1]
            watch.progress = min(99, 100 * (sampled + decoded) // total)
            for job, output, frames in zip(jobs, outputs, to_frames(piece), strict=True):
                if watch.owns(job):
                    output.write(frames)
    for job, output in zip(jobs, outputs, strict=True):  # their fragments are complete now
        if watch.owns(job):
            output.finish()
    return plan


def _plan(pipeline: StarFlowPipeline, jobs: Sequence[Job], folders: Sequence[Path]) -> VideoPlan:
    settings = jobs[0].settings
    names = ("num_frames", "fps", "height", "width", "guidance_scale", "tolerance")
    options = {name: settings[name] for name in names} | _given(folders[0])
    generators = [torch.Generator().manual_seed(job.settings["seed"]) for job in jobs]
    generator = generators[0] if len(jobs) == 1 else generators
    return pipeline.plan([job.prompt for job in jobs], generator=generator, **options)


def _given(folder: Path) -> dict[str, Any]:
    """The pictures and clips that are given, as options of the pipeline."""
    given = {path.stem: read_frames(path) for path in inputs_of(folder)}
    return {name: frames[0] if name in PICTURES else frames for name, frames in given.items()}


class _Output:
    """The files of one job."""

    def __init__(self, job: Job, folder: Path, plan: VideoPlan) -> None:
        self.job, self.folder = job, folder
        self._fragments = fragments_of(folder, job.attempts)
        self._writer = None if job.kind == "image" else Mp4Writer(self._fragments, plan.fps, growing=True)
        self._num_written = 0
        self._in_sheet = set(np.linspace(0, plan.num_frames - 1, SHEET_FRAMES).round().astype(int).tolist())
        self._shown: list[Frame] = []

    def __enter__(self) -> "_Output":
        if self._writer is not None:
            self._writer.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(*exception)

    def write(self, frames: np.ndarray) -> None:
        for frame in frames:
            if self._num_written in self._in_sheet:
                self._shown.append(frame)
            self._num_written += 1
            if self._writer is not None:
                self._writer.write(frame)

    def finish(self) -> None:
        """Rename the finished files into place."""
        if self._writer is None:
            _save(self._shown[0], self.folder / "image.png")
            return
        _save(self._shown[0], self.folder / VARIANTS["thumbnail"], quality=85)
        _save(np.concatenate(self._shown, axis=1), self.folder / VARIANTS["spritesheet"], quality=85)
        remux(self._fragments, self.folder / VARIANTS["video"])


def _save(image: Frame, path: Path, **options: Any) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, **options)
