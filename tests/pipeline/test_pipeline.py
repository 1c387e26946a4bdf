import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from starflow.encoders.text import wrap_caption
from starflow.errors import StarflowError, UsageError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.stages import denoise_by_score
from tiny_pipeline import CAPTIONS, tiny_pipeline

PROMPT = CAPTIONS[0]


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    return tiny_pipeline()


@pytest.fixture
def saved(pipeline: StarFlowPipeline, tmp_path: Path) -> Path:
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(pipeline: StarFlowPipeline, seed: int = 0, **arguments):
    arguments = {"prompt": PROMPT, "output_type": "pt", "guidance_scale": 2.0} | arguments
    return pipeline(generator=seeded(seed), **arguments).frames


def test_each_output_type_has_its_shape_and_range(pipeline: StarFlowPipeline):
    video = frames(pipeline)
    assert video.shape == (1, 9, 3, 32, 32)
    assert video.min() >= 0
    assert video.max() <= 1
    np.testing.assert_allclose(frames(pipeline, output_type="np"), video.permute(0, 1, 3, 4, 2).numpy())
    images = frames(pipeline, output_type="pil")
    assert len(images) == 1
    assert len(images[0]) == 9
    assert images[0][0].size == (32, 32)
    assert frames(pipeline, output_type="latent").shape == (1, 3, 4, 2, 2)
    with pytest.raises(UsageError, match="output type"):
        frames(pipeline, output_type="gif")


def test_the_seed_determines_the_video(pipeline: StarFlowPipeline):
    assert torch.equal(frames(pipeline, 1), frames(pipeline, 1))
    assert not torch.equal(frames(pipeline, 1), frames(pipeline, 2))


def test_a_batch_gives_the_same_videos_as_its_prompts_alone(pipeline: StarFlowPipeline):
    batch = pipeline(CAPTIONS, generator=[seeded(i) for i in range(3)], output_type="latent", tolerance=1e-6).frames
    for index, prompt in enumerate(CAPTIONS):
        alone = pipeline(prompt, generator=seeded(index), output_type="latent", tolerance=1e-6).frames
        torch.testing.assert_close(batch[index : index + 1], alone, atol=1e-4, rtol=0)


def test_prompt_and_guidance_change_the_video(pipeline: StarFlowPipeline):
    video = frames(pipeline, output_type="latent")
    assert not torch.allclose(video, frames(pipeline, prompt=CAPTIONS[1], output_type="latent"), atol=1e-3)
    assert not torch.allclose(video, frames(pipeline, guidance_scale=1.0, output_type="latent"), atol=1e-3)


def test_the_default_sampler_agrees_with_the_sequential_one(pipeline: StarFlowPipeline):
    jacobi = pipeline(PROMPT, generator=seeded(), output_type="latent")
    assert jacobi.report.deep.converged
    assert jacobi.report.deep.max_residual <= pipeline.config.tolerance
    sequential = frames(
        pipeline, guidance_scale=pipeline.config.guidance_scale, output_type="latent", sampler="sequential"
    )
    torch.testing.assert_close(jacobi.frames, sequential, atol=0.2, rtol=0)
    exact = pipeline(PROMPT, generator=seeded(), output_type="latent", tolerance=1e-6).frames
    torch.testing.assert_close(exact, sequential, atol=1e-4, rtol=0)


def test_reaching_max_sweeps_is_a_warning_or_an_error(pipeline: StarFlowPipeline):
    settings = {"prompt": PROMPT, "output_type": "latent", "tolerance": 1e-9, "max_sweeps": 2}
    with pytest.warns(RuntimeWarning, match="after 2 sweeps, the residual of a token is .* above the tolerance"):
        report = pipeline(generator=seeded(), **settings).report
    assert str(report).endswith("NOT converged")
    with pytest.raises(StarflowError, match="increase max_sweeps"):
        pipeline(generator=seeded(), on_unconverged="raise", **settings)
    with pytest.raises(UsageError, match="unknown on_unconverged 'ignore': choose warn, raise"):
        pipeline(generator=seeded(), on_unconverged="ignore", **settings)


def test_latents_are_the_noise_to_sample_from(pipeline: StarFlowPipeline):
    noise = torch.randn(1, 3, 4, 2, 2, generator=seeded())
    assert torch.equal(frames(pipeline), pipeline(PROMPT, latents=noise, output_type="pt", guidance_scale=2.0).frames)
    with pytest.raises(UsageError, match="latents must have the shape"):
        pipeline(PROMPT, latents=noise[:, :2])


def test_the_callback_receives_every_latent_frame(pipeline: StarFlowPipeline):
    seen = []
    pipeline(PROMPT, callback_on_step_end=lambda *args: seen.append((args[1], args[3]["latents"].shape)))
    assert seen == [(frame, (1, 1, 2, 2, 4)) for frame in range(3)]


def test_a_single_frame_can_be_generated(pipeline: StarFlowPipeline):
    assert frames(pipeline, num_frames=1).shape == (1, 1, 3, 32, 32)


def test_another_size_and_length_can_be_generated(pipeline: StarFlowPipeline):
    assert frames(pipeline, num_frames=13, width=48).shape == (1, 13, 3, 32, 48)


@pytest.mark.parametrize(
    "arguments",
    [{"prompt": " "}, {"prompt": []}, {"num_frames": 8}, {"height": 40}, {"width": 0}, {"guidance_scale": -1.0}],
)
def test_invalid_arguments_are_refused(pipeline: StarFlowPipeline, arguments):
    with pytest.raises(UsageError):
        frames(pipeline, **arguments)


def test_prompts_are_wrapped_as_in_training(pipeline: StarFlowPipeline):
    encoded = pipeline.encode_prompt([PROMPT], fps=8)
    wrapped = pipeline.tokenizer(wrap_caption(PROMPT, fps=8), truncation=True, max_length=32, return_tensors="pt")
    direct = pipeline.text_encoder(**wrapped).last_hidden_state
    torch.testing.assert_close(encoded[:, : direct.shape[1]], direct)


def test_a_pipeline_without_a_denoiser_denoises_by_the_score(pipeline: StarFlowPipeline):
    x, text = torch.randn(1, 3, 4, 2, 2), pipeline.encode_prompt([PROMPT], 8)
    plain = StarFlowPipeline(**pipeline.components | {"denoiser": None})
    torch.testing.assert_close(plain.denoise(x, text), denoise_by_score(pipeline.flow, x, text, 0.3))
    assert not torch.allclose(plain.denoise(x, text), pipeline.denoise(x, text))


def test_denoising_by_score_is_x_minus_variance_times_the_gradient(pipeline: StarFlowPipeline):
    x, text = torch.randn(2, 1, 4, 2, 2), pipeline.encode_prompt(CAPTIONS[:2], 8)
    noisy = x.clone().requires_grad_()
    encoded = pipeline.flow(noisy, text)
    log_prob = torch.distributions.Normal(0, 1).log_prob(encoded.z).sum() + encoded.log_det.sum()
    (gradient,) = torch.autograd.grad(log_prob, noisy)
    torch.testing.assert_close(
        denoise_by_score(pipeline.flow, x, text, 0.3), x + 0.3**2 * gradient, atol=1e-5, rtol=1e-5
    )


def test_a_saved_pipeline_loads_and_generates_the_same_video(pipeline: StarFlowPipeline, saved: Path):
    loaded = StarFlowPipeline.from_pretrained(saved)
    loaded.set_progress_bar_config(disable=True)
    # loaded weights are aligned differently in memory, so sums are rounded differently
    torch.testing.assert_close(frames(loaded), frames(pipeline), atol=1e-4, rtol=0)
    assert loaded.config.noise_std == 0.3
    half = StarFlowPipeline.from_pretrained(saved, dtype=torch.bfloat16)
    assert half.flow.dtype == torch.bfloat16


def test_a_missing_model_is_an_error(tmp_path: Path):
    with pytest.raises(StarflowError, match="no model at"):
        StarFlowPipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(StarflowError, match=r"model_index\.json"):
        StarFlowPipeline.from_pretrained(tmp_path)


def test_damaged_weights_are_an_error(saved: Path):
    weights = saved / "flow" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StarflowError, match="cannot load the model"):
        StarFlowPipeline.from_pretrained(saved)
    weights.write_bytes(b"not a safetensors file")
    with pytest.raises(StarflowError, match="cannot load the model"):
        StarFlowPipeline.from_pretrained(saved)
    weights.unlink()
    with pytest.raises(StarflowError, match="cannot load the model"):
        StarFlowPipeline.from_pretrained(saved)


def test_nan_in_the_weights_is_an_error_that_names_the_weight(saved: Path):
    weights = saved / "flow" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["blocks.2.proj_in.weight"][0, 0] = torch.nan
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(StarflowError, match=r"blocks\.2\.proj_in\.weight .* not finite"):
        StarFlowPipeline.from_pretrained(saved)


def test_a_missing_weight_is_an_error_that_names_it(saved: Path):
    weights = saved / "flow" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["blocks.2.proj_in.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(StarflowError, match=r"blocks\.2\.proj_in\.weight .* missing"):
        StarFlowPipeline.from_pretrained(saved)


def test_the_caption_states_the_aspect_ratio_of_the_video(monkeypatch: pytest.MonkeyPatch):
    pipeline, wrapped = tiny_pipeline(caption_has_aspect_ratio=True, height=48, width=80), []
    monkeypatch.setattr("starflow.pipeline.pipeline.encode_text", lambda _, __, texts, *rest: wrapped.extend(texts))
    pipeline.encode_prompt([PROMPT], 8)
    pipeline.encode_prompt([PROMPT], 8, (80, 48))
    expected = [wrap_caption(PROMPT, fps=8, aspect_ratio=name) for name in ("16:9", "9:16")]
    assert wrapped == expected


def test_the_ignored_end_of_a_long_prompt_is_reported(pipeline: StarFlowPipeline, caplog: pytest.LogCaptureFixture):
    pipeline.encode_prompt([PROMPT], 8)
    assert caplog.messages == []
    pipeline.encode_prompt(["a red circle " * 40 + "in the rain"], 8)
    (message,) = caplog.messages
    assert "longer than the 32 tokens that this model reads" in message
    assert "in the rain" in message


def test_a_plan_says_how_long_its_stages_took(pipeline: StarFlowPipeline):
    plan = pipeline.plan(PROMPT, generator=seeded())
    start = time.perf_counter()
    video = torch.cat(list(pipeline.make(plan, 1)), dim=1)
    elapsed = time.perf_counter() - start
    assert video.shape == (1, 9, 3, 32, 32)
    assert set(plan.clock.seconds) == {"sampling", "denoising", "decoding"}
    assert all(seconds > 0 for seconds in plan.clock.seconds.values())
    assert 0.5 * elapsed < sum(plan.clock.seconds.values()) <= elapsed


def test_a_callback_steers_the_frames_after_it(pipeline: StarFlowPipeline):
    def video(prompt: str, new_prompt: str | None) -> torch.Tensor:
        plan = pipeline.plan(prompt, generator=seeded(), num_frames=25)

        def callback(current: StarFlowPipeline, frame: int, *_: object) -> None:
            if frame == 1 and new_prompt is not None:
                current.steer(plan, new_prompt)

        return torch.cat(list(pipeline.make(plan, 1, callback=callback)), dim=1)

    plain, steered, same = (video(PROMPT, each) for each in (None, CAPTIONS[1], PROMPT))
    torch.testing.assert_close(steered[:, :1], plain[:, :1])
    assert (steered[:, 9:] - plain[:, 9:]).abs().max() > 0.01
    torch.testing.assert_close(same, plain, atol=0.02, rtol=0)
    with pytest.raises(UsageError, match="the prompt is empty"):
        pipeline.steer(pipeline.plan(PROMPT), " ")


def test_a_stream_without_look_ahead_shows_each_frame_as_soon_as_it_is_sampled(pipeline: StarFlowPipeline):
    def shown(look_ahead: bool) -> tuple[torch.Tensor, list[int]]:
        sampled = []
        stream = pipeline.stream(
            PROMPT,
            output_type="pt",
            generator=seeded(),
            look_ahead=look_ahead,
            callback_on_step_end=lambda _, index, *__: sampled.append(index),
        )
        images, waited = zip(*((frame.image, len(sampled)) for frame in stream), strict=True)
        return torch.stack(images), list(waited)

    assert pipeline.denoiser is not None
    assert pipeline.denoiser.lookahead > 0
    (late, waited), (early, at_once) = shown(True), shown(False)
    assert at_once == [1, *[2] * 4, *[3] * 4]
    assert waited[0] > 1
    assert not torch.equal(early, late)
    last = pipeline.codec.num_latent_frames(9) - 1
    session = pipeline.session(PROMPT, generator=seeded())
    steps = [session.frames, *(session.step() for _ in range(last))]
    torch.testing.assert_close(
        early.permute(0, 2, 3, 1), torch.from_numpy(np.concatenate(steps)) / 255, atol=0.02, rtol=0
    )
