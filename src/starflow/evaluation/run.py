"""The evaluation of a model: `evaluate` measures, `write` writes `evaluation.json`, a table and the page.

The keys of `evaluation.json`. A *summary* is `{mean, std, standard_error, n}`, over clips unless it says otherwise. A
*proportion* is `{value, correct, n, interval}` with Wilson's 95% interval. Values that were not measured are null.
*Sampling* is `{converged, max_residual, evaluations_per_token}`; `max_residual` is null if it was not measured.

    model
      name, date, parameters {vae, text_encoder, flow, denoiser, total}
      machine {platform, cpu, cores, threads, gpu, python, torch, starflow}
      settings {num_clips, seed, guidance_scale, sampler, tolerance, and those of the checks}
      seconds {vae, likelihood, retrieval, denoising, speed, samples, those of the checks, total}
    data
      source: its fingerprint
      left_out: the clips that could not be used, with the reasons
    vae
      num_clips, psnr: summary in dB, of reconstructed clips
    likelihood
      num_clips, num_dims (of the latents of one clip), noise_std
      caption, empty_caption, difference (empty minus caption): {nats_per_dim, bits_per_dim}, summaries of the negative
        log-likelihood
      noise_entropy {nats_per_dim, bits_per_dim}: a lower bound
    retrieval: null if all captions say the same, otherwise
      num_clips, num_captions (ranked for each clip, its own included), chance
      top_1: proportion of the clips whose own caption comes first
    denoising
      num_clips, noise_std, and for each method (nothing, score_step, denoiser) summaries of latent_mse,
      psnr_to_reconstruction (to the decoded clean latents) and psnr_to_clip (to the original clip)
    speed
      num_frames, width, height of one clip; clip, first_frame: summaries over runs, seconds from the prompt;
      evaluations_per_token
    samples
      num_clips, sampling
    and the results of each check under its name
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from starflow.data.clip import ClipSource
from starflow.errors import StarflowError
from starflow.evaluation.clips import read_clips
from starflow.evaluation.contract import Check, Findings
from starflow.evaluation.machine import count_parameters, describe_machine, now
from starflow.evaluation.metrics.denoising import evaluate_denoising
from starflow.evaluation.metrics.likelihood import evaluate_likelihood
from starflow.evaluation.metrics.reconstruction import reconstruct
from starflow.evaluation.metrics.retrieval import Meaning, evaluate_retrieval
from starflow.evaluation.metrics.samples import generate_samples
from starflow.evaluation.metrics.speed import evaluate_speed
from starflow.evaluation.report import sections
from starflow.evaluation.report.page import render_page
from starflow.evaluation.report.pieces import plain
from starflow.evaluation.settings import EvaluationSettings
from starflow.flow.loss import add_noise
from starflow.media.files import atomic_write
from starflow.pipeline.pipeline import StarFlowPipeline

MAX_RETRIEVAL_CLIPS = 100
NUM_METRICS = 6  # measured on any clips


@dataclass(frozen=True)
class Evaluation:
    """The contents of `evaluation.json`, the most important results (labels and values as HTML), and the page."""

    results: dict[str, Any]
    headlines: Sequence[tuple[str, str]]
    page: str


def evaluate(
    pipeline: StarFlowPipeline,
    source: ClipSource,
    settings: EvaluationSettings,
    name: str,
    *,
    checks: Sequence[Check] = (),
    meaning: Meaning = str,
    tell: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure a model on clips.

    Args:
        pipeline: the model.
        source: the clips.
        settings: of the measurements.
        name: of the model, for the results.
        checks: further measurements, for this source.
        meaning: equal for captions that say the same. By default, different texts have different meanings.
        tell: gets a line when a part of the evaluation begins.

    Raises:
        UsageError: the model cannot be measured on any of the clips.
        StarflowError: a clip cannot be read, or there is NaN in a sample or a measurement.
    """
    seconds: dict[str, float] = {}
    start, date = time.perf_counter(), now()
    num_parts = NUM_METRICS + len(checks)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        tell(f"measuring {part} ({len(seconds) + 1} of {num_parts})")
        part_start = time.perf_counter()
        yield
        seconds[part] = round(time.perf_counter() - part_start, 1)

    with timed("vae"):
        clips = read_clips(source, pipeline, settings.num_clips)
        clean = reconstruct(pipeline, clips.frames, "reconstruction")
    noise = torch.Generator().manual_seed(settings.seed)
    noisy = add_noise(clean.latents, pipeline.config.noise_std, noise)
    with timed("likelihood"):
        likelihood = evaluate_likelihood(pipeline, noisy, clips.captions)
    with timed("retrieval"):
        first = slice(MAX_RETRIEVAL_CLIPS)
        retrieval = evaluate_retrieval(pipeline, noisy[first], clips.captions[first], meaning)
    with timed("denoising"):
        denoising = evaluate_denoising(pipeline, clips, clean, noisy)
    with timed("speed"):
        speed = evaluate_speed(pipeline, clips.captions[0], settings)
    with timed("samples"):
        samples = generate_samples(pipeline, clips, settings)
    found: dict[str, Findings] = {}
    for check in checks:
        with timed(check.name):
            found[check.name] = check.run()
    seconds["total"] = round(time.perf_counter() - start, 1)

    model = {
        "name": name,
        "date": date,
        "parameters": count_parameters(pipeline),
        "machine": describe_machine(pipeline.device),
        "settings": settings.resolved(pipeline) | {k: v for check in checks for k, v in check.settings.items()},
        "seconds": seconds,
    }
    results: dict[str, Any] = {
        "model": model,
        "data": {"source": source.fingerprint, "left_out": list(clips.left_out)},
        "vae": clean.results,
        "likelihood": likelihood,
        "retrieval": retrieval,
        "denoising": denoising.results,
        "speed": speed,
        "samples": samples.results,
    }
    results |= {key: findings.results for key, findings in found.items()}
    headlines = [*sections.headlines(results), *(row for each in found.values() for row in each.headlines)]
    fps = pipeline.config.fps
    shown = [
        *(findings.section for findings in found.values()),
        sections.samples_section(samples.cards, fps),
        sections.reconstruction_section(clips, clean, fps),
        sections.denoising_section(denoising, fps),
    ]
    return Evaluation(results, headlines, render_page(results, headlines, shown))


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write `evaluation.json`, the most important results as `table.md` for a model card, and `index.html`."""
    with atomic_write(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(evaluation.results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(folder / "table.md") as temporary:
        rows = [f"| {plain(label)} | {plain(value)} |\n" for label, value in evaluation.headlines]
        temporary.write_text(f"| measured | value |\n|---|---|\n{''.join(rows)}", encoding="utf-8")
    with atomic_write(folder / "index.html") as temporary:
        temporary.write_text(evaluation.page, encoding="utf-8")


def require_writable(folder: Path) -> None:
    """Make the folder if it is missing. Raises StarflowError if no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StarflowError(f"cannot write into {folder}: {error.strerror}") from error
