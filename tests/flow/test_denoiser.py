"""The causal denoiser: what each frame may see, and the one-step arithmetic around it."""

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, TEXT_WIDTH, randn, random_text, tiny_denoiser
from starflow.flow.denoiser import CausalDenoiser, FrameBandAttend, tweedie_step

FRAMES, PER_FRAME = 6, 4


def may_attend(num_text: int, temporal_causal: int, window: int) -> Tensor:
    """Queries × keys: a frame `q` sees all text and frames `q + A-1-G … q + A-1`, text all text and frames to `A-1`."""
    frame = torch.arange(FRAMES).repeat_interleave(PER_FRAME)
    last = frame[:, None] + temporal_causal - 1
    allowed = torch.ones(num_text + len(frame), num_text + len(frame), dtype=torch.bool)
    allowed[num_text:, num_text:] = (frame >= last - window) & (frame <= last)
    allowed[:num_text, num_text:] = frame <= temporal_causal - 1
    return allowed


@pytest.mark.parametrize("num_text", [0, 3])
@pytest.mark.parametrize(
    ("temporal_causal", "window"), [(1, 0), (1, 2), (2, 1), (2, 2), (2, 3), (2, 10), (3, 2), (3, 4), (9, 10)]
)
def test_frame_bands_equal_dense_masked_attention(num_text: int, temporal_causal: int, window: int):
    q, k, v = randn(3, 2, 2, num_text + FRAMES * PER_FRAME, 4)
    scores = q @ k.transpose(-1, -2) * 4**-0.5
    dense = scores.masked_fill(~may_attend(num_text, temporal_causal, window), -torch.inf).softmax(-1) @ v
    attend = FrameBandAttend(num_text, FRAMES, PER_FRAME, temporal_causal - 1, window)
    torch.testing.assert_close(attend(q, k, v, 0), dense, atol=1e-12, rtol=0)


def changed_frames(denoiser: CausalDenoiser, frame: int, text: Tensor | None, num_frames: int = 9) -> list[int]:
    """The frames of the prediction that a change of one frame of the input reaches."""
    x = randn(1, num_frames, CHANNELS, 2, 2)
    moved = x.clone()
    moved[:, frame] += 1.0
    difference = (denoiser(moved, text) - denoiser(x, text)).abs().amax(dim=(0, 2, 3, 4))
    assert ((difference == 0) | (difference > 1e-9)).all()
    return difference.nonzero().flatten().tolist()


@pytest.mark.parametrize("text_width", [None, TEXT_WIDTH])
@pytest.mark.parametrize(("temporal_causal", "window"), [(2, 10), (2, 3), (3, 3), (1, 1)])
def test_one_layer_sees_its_window_and_no_further(temporal_causal: int, window: int, text_width: int | None):
    denoiser = tiny_denoiser(1, temporal_causal=temporal_causal, window=window, text_width=text_width)
    text = None if text_width is None else random_text(1)
    for frame in range(9):
        first = frame - (temporal_causal - 1)
        want = [n for n in range(9) if first <= n <= first + window]
        assert changed_frames(denoiser, frame, text) == want


@pytest.mark.parametrize("text_width", [None, TEXT_WIDTH])
@pytest.mark.parametrize(("num_layers", "temporal_causal"), [(2, 2), (3, 2), (2, 3), (3, 1)])
def test_each_layer_looks_ahead_once_more(num_layers: int, temporal_causal: int, text_width: int | None):
    denoiser = tiny_denoiser(num_layers, temporal_causal=temporal_causal, text_width=text_width)
    text = None if text_width is None else random_text(1)
    for frame in range(9):
        assert changed_frames(denoiser, frame, text)[0] == max(frame - num_layers * (temporal_causal - 1), 0)


def test_text_reaches_every_frame_of_a_conditioned_denoiser():
    x = randn(1, FRAMES, CHANNELS, 2, 2)
    denoiser = tiny_denoiser(1)
    one, other = (denoiser(x, random_text(1, seed=seed)) for seed in (1, 2))
    assert ((one - other).abs() > 1e-9).all()
    with pytest.raises(ValueError, match="conditioned on text"):
        denoiser(x)


def test_a_denoiser_without_text_ignores_it():
    x, denoiser = randn(1, FRAMES, CHANNELS, 2, 2), tiny_denoiser(text_width=None)
    assert torch.equal(denoiser(x, random_text(1)), denoiser(x))


def test_prediction_has_the_shape_and_dtype_of_the_latents():
    x = randn(2, 3, CHANNELS, 2, 5, dtype=torch.float32)
    out = tiny_denoiser(dtype=torch.bfloat16)(x, random_text(2, dtype=torch.float32))
    assert out.shape == x.shape
    assert out.dtype == torch.float32


def test_an_untrained_denoiser_predicts_nothing():
    denoiser = CausalDenoiser(CHANNELS, 40, num_layers=1, head_dim=20, text_width=TEXT_WIDTH)
    x = randn(1, 3, CHANNELS, 2, 2, dtype=torch.float32)
    assert torch.equal(denoiser(x, random_text(1, dtype=torch.float32)), torch.zeros_like(x))


@pytest.mark.parametrize(("temporal_causal", "window"), [(0, 4), (3, 1)])
def test_a_window_that_misses_the_frame_itself_is_refused(temporal_causal: int, window: int):
    with pytest.raises(ValueError, match="window must reach the frame itself"):
        tiny_denoiser(temporal_causal=temporal_causal, window=window)


def test_a_tweedie_step_with_the_true_score_finds_the_posterior_mean():
    """Of data `N(m, s²)` under noise of `noise_std`: `(noise_std²·m + s²·x) / (noise_std² + s²)`."""
    mean, std, noise_std = 1.5, 0.7, 0.5
    x = randn(10)
    gradient = (x - mean) / (std**2 + noise_std**2)
    got = tweedie_step(x, noise_std**2 / 0.3 * gradient, noise_std)
    torch.testing.assert_close(got, (noise_std**2 * mean + std**2 * x) / (noise_std**2 + std**2))


def test_a_partial_tweedie_step_goes_part_of_the_way():
    x, prediction = randn(2, 10)
    assert torch.equal(tweedie_step(x, prediction, 0.5, 0.5), x)
    whole, half = tweedie_step(x, prediction, 0.5), tweedie_step(x, prediction, 0.5, 0.25)
    torch.testing.assert_close(half, (x + whole) / 2)
