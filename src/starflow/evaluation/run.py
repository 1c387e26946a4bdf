"""Everything that `starflow evaluate` measures: `evaluate` measures it, `write` writes `evaluation.json` and the page.

The keys of the JSON. A *summary* is `{mean, std, standard_error, n}` over clips; a *proportion* is
`{value, correct, n, interval}` with Wilson's 95% interval; what was not measured is null.

    model
      name, date, parameters {vae, text_encoder, flow, denoiser, total}, machine {platform, cpu, cores, threads, gpu,
      python, torch, starflow}, settings {seed, guidance_scale, sampler, tolerance, prompts, num_prompts,
      num_two_object_prompts, num_clips, task_clips, long_clips, long_seconds}, seconds {vae, likelihood,
      retrieval, surprise, denoising, compliance, tasks, drift, total}
    vae
      num_clips, psnr: summary, dB, over held-out clips
    likelihood
      num_clips, num_dims (of one clip's latents), noise_std
      caption, empty_caption, difference (empty less caption): {nats_per_dim, bits_per_dim}: summaries
      noise_entropy {nats_per_dim, bits_per_dim}: of the noise alone, which no model can be below
    retrieval: null for a single clip, else
      num_clips, num_captions (ranked for each clip by its likelihood, its own among them), chance
      top_1: proportion of the clips whose own caption comes first
    surprise
      num_clips (for each violation; as many normal ones)
      violations, by name: auroc of the most surprising latent frame's surprise as a detector; proportions of the
        clips whose most surprising latent frame is the planted one: located, and coincidence (of the normal clips)
    denoising
      num_clips, noise_std, and by method (nothing, score_step, denoiser): summaries of latent_mse,
      psnr_to_reconstruction (against the decoded clean latents), psnr_to_clip (against the true clip)
    compliance
      prompts: "held out" or a file's name
      one_object, two_objects: null, or
        num_prompts, and for generated, ceiling (VAE reconstructions of true clips), floor (shuffled captions):
          proportions color, shape, size, motion, color_shape_motion, count, background, all; per_motion {left, …}:
          see `starflow.toyworld.evaluation.compliance.score`
        sampling {converged, max_residual, evaluations_per_token}
    tasks: null, or
      image_to_video, continuation, video_to_video, last_frame: see the functions that
        `starflow.toyworld.evaluation.tasks` calls; sampling as above
    drift: null, or of long videos second by second: see `starflow.toyworld.evaluation.drift`; sampling as above
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starflow.errors import StarflowError, UsageError
from starflow.evaluation.clips import held_out_clips
from starflow.evaluation.generation import GENERATE_BATCH, SamplingSettings
from starflow.evaluation.machine import count_parameters, describe_machine, now
from starflow.evaluation.measured import Measured
from starflow.evaluation.metrics.denoising import add_noise, evaluate_denoising
from starflow.evaluation.metrics.likelihood import evaluate_likelihood
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.metrics.retrieval import evaluate_retrieval
from starflow.evaluation.report.page import Pictures, render_page
from starflow.media.files import atomic_write
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.compliance import Compliance, evaluate_compliance
from starflow.toyworld.evaluation.drift import evaluate_drift
from starflow.toyworld.evaluation.prompts import Prompt, held_out_prompts, read_prompts
from starflow.toyworld.evaluation.surprise import evaluate_surprise
from starflow.toyworld.evaluation.tasks import evaluate_tasks
from starflow.toyworld.world.vocabulary import FRAME_SIZE, NUM_FRAMES

GROUPS = {"one_object": 1, "two_objects": 2}
NUM_SHOWN_PROMPTS = {"one_object": 12, "two_objects": 8}
NUM_SHOWN_CLIPS = 6
NUM_SHOWN_OF_A_TASK = 4
NUM_SHOWN_LONG_CLIPS = 2
MAX_RETRIEVAL_CLIPS = 100
MAX_SURPRISE_CLIPS = 50  # of each violation
CODEC_BATCH = 10
FLOW_BATCH = 25


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured.

    Attributes:
        num_prompts, num_two_object_prompts: held-out captions to follow.
        num_clips: held-out clips for reconstruction, likelihood and denoising; the first of them, and at most as many,
            for retrieval and surprise.
        task_clips: held-out clips for each task beside text-to-video, twice as many for edits; 0 for none.
        long_clips, long_seconds: how many long videos, and how long they are.
        seed: the same seed, the same captions, clips and noise.
        guidance_scale, sampler, tolerance: of generating; None is the model's default.
        prompts: a file of captions to follow instead of the held-out ones.
    """

    num_prompts: int = 200
    num_two_object_prompts: int = 100
    num_clips: int = 200
    task_clips: int = 50
    long_clips: int = 20
    long_seconds: int = 30
    seed: int = 0
    guidance_scale: float | None = None
    sampler: str | None = None
    tolerance: float | None = None
    prompts: Path | None = None

    @property
    def sampling(self) -> SamplingSettings:
        """How clips are generated."""
        return SamplingSettings(self.seed, self.guidance_scale, self.sampler, self.tolerance)


@dataclass(frozen=True)
class Evaluation:
    """The contents of `evaluation.json`, and what the page shows beside them."""

    results: dict[str, Any]
    pictures: Pictures


def evaluate(pipeline: StarFlowPipeline, settings: EvaluationSettings, name: str) -> Evaluation:
    """Measure a toyworld model; `name` is what the results call it.

    Raises:
        UsageError: the model makes other videos than toyworld's, or the captions are not as they must be.
        StarflowError: NaN in what was sampled or measured.
    """
    _require_toyworld(pipeline)
    prompts = _prompts(settings)
    seconds: dict[str, float] = {}
    start, date = time.perf_counter(), now()

    with _timed(seconds, "vae"):
        clips = held_out_clips(settings.seed, settings.num_clips)
        clean = reconstruct(pipeline.codec, clips.frames, CODEC_BATCH, "reconstruction")
    noisy = add_noise(clean.latents, pipeline.config.noise_std, settings.seed)
    with _timed(seconds, "likelihood"):
        likelihood = evaluate_likelihood(pipeline, noisy, clips.captions, FLOW_BATCH)
    with _timed(seconds, "retrieval"):
        first = slice(MAX_RETRIEVAL_CLIPS)
        retrieval = evaluate_retrieval(pipeline, noisy[first], clips.captions[first])
    with _timed(seconds, "surprise"):
        num_scenes = min(settings.num_clips, MAX_SURPRISE_CLIPS)
        surprise = evaluate_surprise(pipeline, settings.seed, num_scenes, FLOW_BATCH)
    with _timed(seconds, "denoising"):
        denoising = evaluate_denoising(pipeline, clips, clean, noisy, CODEC_BATCH, NUM_SHOWN_CLIPS)
    with _timed(seconds, "compliance"):
        compliance = {group: _compliance(pipeline, group, prompts[group], settings) for group in GROUPS}
    with _timed(seconds, "tasks"):
        tasks = _tasks(pipeline, settings)
    with _timed(seconds, "drift"):
        drift = _drift(pipeline, settings)

    results = {
        "model": {
            "name": name,
            "date": date,
            "parameters": count_parameters(pipeline),
            "machine": describe_machine(pipeline.device),
            "settings": _resolved(settings, pipeline, prompts),
            "seconds": seconds | {"total": round(time.perf_counter() - start, 1)},
        },
        "vae": clean.results(),
        "likelihood": likelihood,
        "retrieval": retrieval,
        "surprise": surprise.results,
        "denoising": denoising.results,
        "compliance": {
            "prompts": _prompts_name(settings),
            **{group: part and part.results for group, part in compliance.items()},
        },
        "tasks": {name: task.results for name, task in tasks.items()} or None,
        "drift": drift and drift.results,
    }
    pictures = Pictures(
        examples=[example for part in compliance.values() if part for example in part.examples],
        clips=clips.frames[:NUM_SHOWN_CLIPS],
        captions=clips.captions[:NUM_SHOWN_CLIPS],
        reconstructions=clean.frames[:NUM_SHOWN_CLIPS],
        psnr=clean.psnr[:NUM_SHOWN_CLIPS].tolist(),
        denoised=denoising.frames,
        surprising=surprise.examples,
        tasks={name: task.cards for name, task in tasks.items()},
        drift=drift.cards if drift else [],
    )
    return Evaluation(results, pictures)


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write `evaluation.json` and `index.html`, which holds its pictures in itself."""
    with atomic_write(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(evaluation.results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(render_page(evaluation.results, evaluation.pictures), encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Make the folder if it is missing; raises StarflowError now rather than after minutes if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StarflowError(f"cannot write into {folder}: {error.strerror}") from error


def _require_toyworld(pipeline: StarFlowPipeline) -> None:
    config = pipeline.config
    if (config.num_frames, config.height, config.width) != (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE):
        raise UsageError(
            f"only models of toyworld can be evaluated ({NUM_FRAMES} frames of {FRAME_SIZE}×{FRAME_SIZE}); "
            f"this one makes {config.num_frames} frames of {config.width}×{config.height}"
        )


def _prompts(settings: EvaluationSettings) -> dict[str, list[Prompt]]:
    if settings.prompts is None:
        numbers = {"one_object": settings.num_prompts, "two_objects": settings.num_two_object_prompts}
        return {group: held_out_prompts(settings.seed, numbers[group], GROUPS[group]) for group in GROUPS}
    prompts = read_prompts(settings.prompts, settings.seed)
    return {group: [each for each in prompts if len(each.description.objects) == n] for group, n in GROUPS.items()}


def _compliance(
    pipeline: StarFlowPipeline, group: str, prompts: list[Prompt], settings: EvaluationSettings
) -> Compliance | None:
    if not prompts:
        return None
    return evaluate_compliance(
        pipeline,
        prompts,
        settings.sampling,
        description=group.replace("_", " "),
        generate_batch=GENERATE_BATCH,
        codec_batch=CODEC_BATCH,
        num_shown=NUM_SHOWN_PROMPTS[group],
    )


def _tasks(pipeline: StarFlowPipeline, settings: EvaluationSettings) -> dict[str, Measured]:
    if not settings.task_clips:
        return {}
    return evaluate_tasks(pipeline, settings.task_clips, settings.sampling, CODEC_BATCH, NUM_SHOWN_OF_A_TASK)


def _drift(pipeline: StarFlowPipeline, settings: EvaluationSettings) -> Measured | None:
    if not settings.long_clips:
        return None
    prompts = held_out_prompts(settings.seed, settings.long_clips, 1)
    return evaluate_drift(
        pipeline, prompts, settings.long_seconds, settings.sampling, CODEC_BATCH, NUM_SHOWN_LONG_CLIPS
    )


def _prompts_name(settings: EvaluationSettings) -> str:
    return "held out" if settings.prompts is None else settings.prompts.name


def _resolved(
    settings: EvaluationSettings, pipeline: StarFlowPipeline, prompts: dict[str, list[Prompt]]
) -> dict[str, Any]:
    """The settings, with the model's defaults where none were given."""
    config, given = pipeline.config, settings
    return {
        "seed": given.seed,
        "guidance_scale": config.guidance_scale if given.guidance_scale is None else given.guidance_scale,
        "sampler": given.sampler or config.sampler,
        "tolerance": config.tolerance if given.tolerance is None else given.tolerance,
        "prompts": _prompts_name(given),
        "num_prompts": len(prompts["one_object"]),
        "num_two_object_prompts": len(prompts["two_objects"]),
        "num_clips": given.num_clips,
        "task_clips": given.task_clips,
        "long_clips": given.long_clips,
        "long_seconds": given.long_seconds,
    }


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 1)
