from math import log, sqrt

import numpy as np
import pytest
import torch

from invertible_maps import CHANNELS, VIDEO, randn, random_text, tiny_flow
from starflow.errors import StarflowError, UsageError
from starflow.flow.loss import negative_log_likelihood
from starflow.likelihood.score import Likelihood, deep_log_likelihood, log_likelihood, shallow_log_det
from starflow.pipeline.inputs import encode_clips
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline

LATENTS = (VIDEO[0], CHANNELS, *VIDEO[1:])


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline()


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


def token_log_likelihood(flow, x, text):
    u, log_det = shallow_log_det(flow, x)
    return deep_log_likelihood(flow, u, text) + log_det


def test_the_density_follows_the_change_of_variables():
    """Compare with the Jacobian of the whole map by autograd, independently of the flow's log-determinants."""
    flow, x, text = tiny_flow(), randn(*LATENTS), random_text(1)

    def to_noise(flat: torch.Tensor) -> torch.Tensor:
        return flow.encode(flat.view(1, *LATENTS), text).z.flatten()

    jacobian = torch.autograd.functional.jacobian(to_noise, x.flatten())
    z = to_noise(x.flatten())
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum() + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(token_log_likelihood(flow, x[None], text).sum(), expected, atol=1e-9, rtol=0)


def test_token_likelihoods_agree_with_the_training_loss():
    flow, x, text = tiny_flow(), randn(2, *LATENTS), random_text(2)
    expected = -negative_log_likelihood(flow.encode(x, text)).sum(dim=2)
    torch.testing.assert_close(token_log_likelihood(flow, x, text), expected, atol=1e-12, rtol=0)


def test_later_frames_do_not_change_the_likelihood_of_earlier_ones():
    flow, x, text = tiny_flow(), randn(1, *LATENTS), random_text(1)
    whole, start = token_log_likelihood(flow, x, text), token_log_likelihood(flow, x[:, :2], text)
    torch.testing.assert_close(whole[:, :2], start, atol=1e-12, rtol=0)


def test_a_flow_without_shallow_blocks():
    flow, x, text = tiny_flow(num_blocks=1), randn(1, *LATENTS), random_text(1)
    expected = -negative_log_likelihood(flow.encode(x, text)).sum(dim=2)
    torch.testing.assert_close(token_log_likelihood(flow, x, text), expected, atol=1e-12, rtol=0)


def test_the_likelihood_of_a_clip(pipeline: StarFlowPipeline, clip: np.ndarray):
    first, second = log_likelihood(pipeline, clip, CAPTIONS[:2], noise_samples=3, seed=5)
    assert first.num_dims == 3 * 4 * 2 * 2
    assert first.deep.shape == first.shallow.shape == (3, 3, 2, 2)
    assert first.deep.dtype == torch.float64
    assert torch.equal(first.shallow, second.shallow)  # shallow blocks see no text, and the noise is the same
    assert not torch.equal(first.deep, second.deep)

    generator = torch.Generator().manual_seed(5)
    latents = encode_clips(pipeline.codec, [clip], (32, 32))
    text = pipeline.encode_prompt(CAPTIONS[:1], 8)
    draws = []
    for _ in range(3):
        x = latents + 0.3 * torch.randn(latents.shape, generator=generator)
        draws.append(-negative_log_likelihood(pipeline.flow.encode(x, text)).sum().item())
    total = first.log_likelihood
    assert total.mean == pytest.approx(np.mean(draws), rel=1e-5)
    assert total.standard_error == pytest.approx(np.std(draws, ddof=1) / sqrt(3), rel=1e-4)
    assert first.nats_per_dim == pytest.approx(-total.mean / 48)
    assert first.bits_per_dim == pytest.approx(first.nats_per_dim / log(2))
    assert first.per_frame.sum().item() == pytest.approx(total.mean)
    assert first.surprise.sum().item() == pytest.approx(-total.mean)
    gain = first.gain(second)
    assert gain.mean == pytest.approx(total.mean - second.log_likelihood.mean)


def test_the_standard_error_of_a_gain_uses_pairs_with_the_same_noise():
    shallow = randn(4, 1, 1, 1)
    ones = torch.ones_like(shallow)
    gain = Likelihood(ones * 3, shallow, 1).gain(Likelihood(ones, shallow, 1))
    assert gain.mean == pytest.approx(2)
    assert gain.standard_error == pytest.approx(0, abs=1e-12)


def test_one_draw_has_no_standard_error(pipeline: StarFlowPipeline, clip: np.ndarray):
    (likelihood,) = log_likelihood(pipeline, clip, CAPTIONS[:1])
    assert likelihood.log_likelihood.standard_error is None


def test_the_seed_determines_the_noise(pipeline: StarFlowPipeline, clip: np.ndarray):
    one, again, other = (log_likelihood(pipeline, clip, CAPTIONS[:1], seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_the_likelihood_of_an_image(pipeline: StarFlowPipeline, clip: np.ndarray):
    (likelihood,) = log_likelihood(pipeline, clip[:1], CAPTIONS[:1])
    assert likelihood.per_frame.shape == (1,)


def test_scores_of_a_model_in_bfloat16_are_float32(pipeline: StarFlowPipeline, clip: np.ndarray):
    (expected,) = log_likelihood(pipeline, clip, CAPTIONS[:1])
    torch.manual_seed(0)
    (likelihood,) = log_likelihood(tiny_pipeline().to(dtype=torch.bfloat16), clip, CAPTIONS[:1])
    tokens = likelihood.tokens
    assert (tokens != tokens.bfloat16().double()).any()
    torch.testing.assert_close(tokens, expected.tokens, rtol=0.1, atol=0.5)


@pytest.mark.parametrize(("prompts", "noise_samples"), [([], 1), (CAPTIONS, 0)])
def test_no_caption_or_no_draw_is_an_error(
    pipeline: StarFlowPipeline, clip: np.ndarray, prompts: list[str], noise_samples: int
):
    with pytest.raises(UsageError, match="at least one caption and one draw"):
        log_likelihood(pipeline, clip, prompts, noise_samples=noise_samples)


def test_a_clip_that_the_vae_cannot_encode_is_an_error(pipeline: StarFlowPipeline, clip: np.ndarray):
    with pytest.raises(UsageError, match="7 frames"):
        log_likelihood(pipeline, clip[:7], CAPTIONS[:1])
    with pytest.raises(UsageError, match="multiples of 16 pixels"):
        log_likelihood(pipeline, clip[:, :30], CAPTIONS[:1])


def test_a_nan_likelihood_is_an_error(clip: np.ndarray):
    broken = tiny_pipeline()
    broken.flow.deep.proj_out.bias[0] = torch.nan
    with pytest.raises(StarflowError, match="the likelihood has NaN"):
        log_likelihood(broken, clip, CAPTIONS[:1])
