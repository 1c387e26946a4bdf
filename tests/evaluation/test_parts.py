"""The parts of an evaluation against what they must be by hand, for tiny random models."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from math import log, pi

import numpy as np
import pytest
import torch

from starflow.errors import StarflowError
from starflow.evaluation.clips import CaptionedClips, batches, held_out_clips, to_frames, to_video
from starflow.evaluation.generation import SamplingSettings, generate
from starflow.evaluation.metrics.denoising import add_noise, evaluate_denoising
from starflow.evaluation.metrics.likelihood import evaluate_likelihood, noise_entropy
from starflow.evaluation.metrics.reconstruction import Reconstruction, clip_psnr, reconstruct
from starflow.flow.denoiser import NOISE_UNIT
from starflow.flow.model import StarFlow
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.evaluation.compliance import evaluate_compliance, score
from starflow.toyworld.evaluation.prompts import held_out_prompts
from starflow.toyworld.reader.checker import check
from starflow.toyworld.world.render import render
from tiny_pipeline import tiny_pipeline

SAMPLING = SamplingSettings(seed=0, guidance_scale=1.0, sampler=None, tolerance=1e-4)


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline(num_frames=17, height=64, width=64, max_text_tokens=12)


@pytest.fixture(scope="module")
def clips() -> CaptionedClips:
    return held_out_clips(0, 3)


@pytest.fixture(scope="module")
def clean(pipeline: StarFlowPipeline, clips: CaptionedClips) -> Reconstruction:
    return reconstruct(pipeline.codec, clips.frames, 2, "")


def test_frames_and_videos(clips: CaptionedClips):
    video = to_video(clips.frames)
    assert video.shape == (3, 17, 3, 64, 64)
    assert video.min() >= -1
    assert video.max() <= 1
    np.testing.assert_array_equal(to_frames(video), clips.frames)


def test_batches():
    assert [(b.start, b.stop) for b in batches(5, 2)] == [(0, 2), (2, 4), (4, 5)]


def test_psnr_of_a_known_error():
    truth = torch.zeros(2, 1, 3, 4, 4)
    video = truth + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(clip_psnr(video, truth), torch.tensor([20.0, 40.0]))  # 20·log10(2 / error)


def test_reconstruction_does_not_depend_on_the_batch(pipeline: StarFlowPipeline, clips: CaptionedClips, clean):
    whole = reconstruct(pipeline.codec, clips.frames, 3, "")
    torch.testing.assert_close(clean.latents, whole.latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clean.psnr, whole.psnr)
    video = pipeline.codec.decode(pipeline.codec.encode(to_video(clips.frames)))
    torch.testing.assert_close(whole.psnr, clip_psnr(video, to_video(clips.frames)))
    np.testing.assert_array_equal(whole.frames, to_frames(video))


def identity_flow(pipeline: StarFlowPipeline) -> StarFlow:
    """The flow that training starts from: x is the noise itself."""
    flow = deepcopy(pipeline.flow)
    for block in flow.blocks:
        torch.nn.init.zeros_(block.proj_out.weight)
        torch.nn.init.zeros_(block.proj_out.bias)
    return flow


def test_likelihood_of_the_identity_is_that_of_a_normal(pipeline: StarFlowPipeline, clean: Reconstruction, monkeypatch):
    monkeypatch.setattr(pipeline, "flow", identity_flow(pipeline))
    noisy = add_noise(clean.latents, 0.3, seed=0)
    results = evaluate_likelihood(pipeline, noisy, ["a red circle"] * 3, batch_size=2)
    nats = 0.5 * noisy.square().mean().item() + 0.5 * log(2 * pi)
    assert results["caption"]["nats_per_dim"]["mean"] == pytest.approx(nats, rel=1e-5)
    assert results["caption"]["bits_per_dim"]["mean"] == pytest.approx(nats / log(2), rel=1e-5)
    assert results["difference"]["nats_per_dim"]["mean"] == 0
    assert results["num_dims"] == 5 * 4 * 4 * 4


def test_likelihood_reads_the_caption(pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction):
    noisy = add_noise(clean.latents, 0.3, seed=0)
    results = evaluate_likelihood(pipeline, noisy, clips.captions, batch_size=2)
    captioned, uncaptioned = (results[key]["nats_per_dim"]["mean"] for key in ("caption", "empty_caption"))
    assert captioned != uncaptioned
    assert results["difference"]["nats_per_dim"]["mean"] == pytest.approx(uncaptioned - captioned)


def test_likelihood_that_is_not_finite_is_an_error(pipeline: StarFlowPipeline, clean: Reconstruction):
    with pytest.raises(StarflowError, match="NaN"):
        evaluate_likelihood(pipeline, clean.latents * torch.nan, ["a red circle"] * 3, batch_size=3)


def test_the_entropy_of_noise_is_its_mean_negative_log_density():
    noise = torch.distributions.Normal(0.0, 0.3)
    assert noise_entropy(0.3) == pytest.approx(noise.entropy().item())


def test_added_noise():
    latents = torch.ones(4, 5, 6, 7, 8)
    noise = add_noise(latents, 0.3, seed=1) - latents
    assert noise.std().item() == pytest.approx(0.3, rel=0.03)
    assert torch.equal(noise, add_noise(latents, 0.3, seed=1) - latents)
    assert not torch.equal(noise, add_noise(latents, 0.3, seed=2) - latents)


class PerfectDenoiser:
    """Knows the clean latents, and finds them by the noise."""

    def __init__(self, noisy: torch.Tensor, clean: torch.Tensor):
        self.noisy, self.clean = noisy, clean

    def stream(
        self, _: object, pieces: Iterable[torch.Tensor], text: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        x = torch.cat(list(pieces), dim=1)
        matches = [int((self.noisy - each).flatten(1).norm(dim=1).argmin()) for each in x]
        yield x, (x - self.clean[matches]) / NOISE_UNIT


def test_denoising(pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction, monkeypatch):
    monkeypatch.setattr(pipeline, "flow", identity_flow(pipeline))
    noisy = add_noise(clean.latents, pipeline.config.noise_std, seed=0)
    monkeypatch.setattr("starflow.pipeline.stages.stream_predictions", PerfectDenoiser(noisy, clean.latents).stream)
    denoising = evaluate_denoising(pipeline, clips, clean, noisy, batch_size=2, num_shown=2)
    errors = {name: denoising.results[name]["latent_mse"]["mean"] for name in ("nothing", "score_step", "denoiser")}
    assert errors["nothing"] == pytest.approx((noisy - clean.latents).square().mean().item(), rel=1e-5)
    # The identity's score is -x, so that one step of it makes x smaller.
    expected = (noisy * (1 - 0.3**2) - clean.latents).square().mean().item()
    assert errors["score_step"] == pytest.approx(expected, rel=1e-4)
    assert errors["denoiser"] == pytest.approx(0, abs=1e-10)
    perfect = denoising.results["denoiser"]
    assert perfect["psnr_to_reconstruction"]["mean"] > 50
    assert perfect["psnr_to_clip"]["mean"] == pytest.approx(clean.psnr.mean().item(), rel=1e-4)
    assert denoising.results["nothing"]["psnr_to_reconstruction"]["mean"] < 50
    assert {name: frames.shape for name, frames in denoising.frames.items()} == dict.fromkeys(
        errors, (2, 17, 64, 64, 3)
    )


def test_a_model_without_a_denoiser(
    pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction, monkeypatch
):
    monkeypatch.setattr(pipeline, "denoiser", None)
    denoising = evaluate_denoising(pipeline, clips, clean, clean.latents, batch_size=3, num_shown=1)
    assert denoising.results["denoiser"] is None
    assert set(denoising.frames) == {"nothing", "score_step"}


def test_score_of_true_clips_and_of_wrong_captions():
    prompts = held_out_prompts(0, 6, 1)
    checks = [check(render(prompt.scene), prompt.description) for prompt in prompts]
    right = score(checks)
    for name in ("color", "shape", "motion", "color_shape_motion", "count", "all"):
        assert right[name]["value"] == 1
        assert right[name]["n"] == 6
    said_sizes = sum(prompt.description.objects[0].size is not None for prompt in prompts)
    assert right["size"]["n"] == said_sizes < 6
    assert sum(each["n"] for each in right["per_motion"].values()) == 6
    wrong = score([check(np.full_like(render(prompts[0].scene), 60), prompt.description) for prompt in prompts])
    for name in ("color", "shape", "motion", "color_shape_motion", "count", "all"):
        assert wrong[name]["value"] == 0


def test_two_objects_must_both_be_right():
    (prompt,) = held_out_prompts(0, 1, 2)
    lone = render(type(prompt.scene)(prompt.scene.objects[:1], prompt.scene.background))
    result = score([check(lone, prompt.description)])
    assert result["color"]["value"] == result["count"]["value"] == result["all"]["value"] == 0
    assert sum(each["n"] for each in result["per_motion"].values()) == 2
    assert sum(each["correct"] for each in result["per_motion"].values()) == 1


def test_what_is_generated_depends_on_place_and_seed_and_not_on_the_batch(pipeline: StarFlowPipeline):
    captions = [prompt.caption for prompt in held_out_prompts(0, 3, 1)]
    together, _ = generate(pipeline, captions, SAMPLING, "", purpose=1, batch_size=3)
    apart, _ = generate(pipeline, captions, SAMPLING, "", purpose=1, batch_size=2)
    assert np.abs(together.astype(int) - apart).max() <= 2  # of 255: what the solver's tolerance leaves
    assert np.abs(together[0].astype(int) - together[1]).max() > 2
    for settings, purpose in ((SamplingSettings(1, 1.0, None, 1e-4), 1), (SAMPLING, 2)):
        other, _ = generate(pipeline, captions[:1], settings, "", purpose=purpose)
        assert np.abs(together[0].astype(int) - other[0]).max() > 2


def test_compliance_of_a_model_that_is_always_right(pipeline: StarFlowPipeline, monkeypatch):
    prompts = held_out_prompts(0, 4, 1)
    scenes = {prompt.caption: prompt.scene for prompt in prompts}
    call = type(pipeline).__call__

    def perfect(self: StarFlowPipeline, captions: list[str], **settings: object):
        output = call(self, captions, **settings)
        output.frames = np.stack([render(scenes[caption]) for caption in captions]) / 255
        return output

    monkeypatch.setattr(type(pipeline), "__call__", perfect)
    options = {"description": "", "generate_batch": 3, "codec_batch": 3, "num_shown": 2}
    compliance = evaluate_compliance(pipeline, prompts, SAMPLING, **options)
    results = compliance.results
    assert results["generated"]["all"]["value"] == 1
    assert results["floor"]["all"]["value"] < 1  # each clip against another's caption
    assert results["ceiling"]["all"]["value"] < 1  # the VAE is random
    assert results["sampling"]["converged"]
    assert [example.prompt for example in compliance.examples] == prompts[:2]
    np.testing.assert_array_equal(compliance.examples[1].frames, render(prompts[1].scene))
    assert evaluate_compliance(pipeline, prompts[:1], SAMPLING, **options).results["floor"] is None
