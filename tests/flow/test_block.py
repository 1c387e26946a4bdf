"""One block: the cached Gaussians against the parallel pass, guidance over both branches, and float32 arithmetic."""

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, HEAD_DIM, TEXT_TOKENS, VIDEO, randn, random_text, randomize, tiny_flow
from plans import sample
from starflow.flow.block import AffineBlock, ConditionalGaussians
from starflow.flow.guidance import guide
from starflow.flow.model import StarFlow
from starflow.sampling.solvers import BlockJacobi, sequential

NUM_TOKENS = 18
DEEP = 2


def deep_gaussians(flow: StarFlow, **options) -> ConditionalGaussians:
    return flow.conditional(DEEP, 2, VIDEO, **options)


def whole_pass(flow: StarFlow, v: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    return flow.deep.predict(v, flow.rotation(DEEP, VIDEO, TEXT_TOKENS), text)


def pieces(gaussians: ConditionalGaussians, v: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    start, parts = 0, []
    for size in sizes:
        parts.append(gaussians.evaluate(v, start, start + size))
        start += size
    mu, sigma = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    return mu, sigma


@pytest.mark.parametrize("sizes", [[18], [1] * 18, [6, 6, 6], [1, 16, 1]])
def test_cached_evaluation_equals_the_whole_pass(sizes: list[int]):
    flow, text, v = tiny_flow(), random_text(2), randn(2, NUM_TOKENS, CHANNELS)
    got = pieces(deep_gaussians(flow, text=text), v, sizes)
    torch.testing.assert_close(got, whole_pass(flow, v, text), atol=1e-12, rtol=0)


def test_evaluating_changed_tokens_again_equals_the_whole_pass():
    """Jacobi iteration does this: it evaluates the same tokens with new values and rewinds the cache each time."""
    flow, text, v = tiny_flow(), random_text(2), randn(2, NUM_TOKENS, CHANNELS)
    gaussians = deep_gaussians(flow, text=text)
    gaussians.evaluate(v, 0, 6)
    gaussians.evaluate(v, 6, 18)
    v[:, 8:] = randn(2, 10, CHANNELS, seed=1)
    mu, sigma = whole_pass(flow, v, text)
    for start, stop in [(6, 12), (10, 12), (12, 18), (0, 18)]:
        got = gaussians.evaluate(v, start, stop)
        torch.testing.assert_close(got, (mu[:, start:stop], sigma[:, start:stop]), atol=1e-12, rtol=0)


def test_evaluation_first_adds_missing_tokens_to_the_cache():
    flow, v = tiny_flow(), randn(2, NUM_TOKENS, CHANNELS)
    text = random_text(2)
    want = whole_pass(flow, v, text)
    for held in (0, 6):
        gaussians = deep_gaussians(flow, text=text)
        if held:
            gaussians.evaluate(v, 0, held)
        got = gaussians.evaluate(v, 9, 13)
        torch.testing.assert_close(got, tuple(each[:, 9:13] for each in want), atol=1e-12, rtol=0)
        assert gaussians.cache.length == TEXT_TOKENS + 13
        gaussians.forget()
        assert gaussians.cache.length == TEXT_TOKENS


def test_guided_evaluation_equals_guidance_of_two_whole_passes():
    flow, v = tiny_flow(), randn(2, NUM_TOKENS, CHANNELS)
    text, null_text = random_text(2, seed=1), random_text(2, seed=2)
    gaussians = deep_gaussians(flow, text=text, null_text=null_text, guidance_weight=2.0)
    want = guide(*whole_pass(flow, v, text), *whole_pass(flow, v, null_text), 2.0)
    torch.testing.assert_close(pieces(gaussians, v, [6, 1, 11]), want, atol=1e-12, rtol=0)


def test_without_guidance_the_empty_caption_is_not_evaluated():
    flow, v, text = tiny_flow(), randn(2, NUM_TOKENS, CHANNELS), random_text(2)
    gaussians = deep_gaussians(flow, text=text, null_text=random_text(2, seed=2))
    torch.testing.assert_close(gaussians.evaluate(v, 0, 18), whole_pass(flow, v, text), atol=1e-12, rtol=0)
    assert gaussians.cache.buffer.shape[2] == 2


def test_guidance_without_the_empty_caption_is_refused():
    with pytest.raises(ValueError, match="guidance needs"):
        deep_gaussians(tiny_flow(), text=random_text(2), guidance_weight=2.0)


def test_text_for_a_shallow_block_is_refused():
    flow = tiny_flow()
    with pytest.raises(ValueError, match="takes no text"):
        flow.conditional(0, 2, (1, *VIDEO[1:]), text=random_text(2))


@pytest.mark.parametrize(("soft_clip", "largest"), [(0.5, 0.5), (4.0, 4.0), (0.0, 1e3)])
def test_soft_clip_bounds_mean_and_standard_deviation(soft_clip: float, largest: float):
    block = randomize(AffineBlock(CHANNELS, HEAD_DIM, 1, HEAD_DIM, soft_clip=soft_clip))
    h = randn(2, 5, HEAD_DIM)
    a, mu = block.proj_out(1e4 * h).chunk(2, dim=-1)
    got_mu, sigma = block.gaussians(1e4 * h)
    if soft_clip:
        a, mu = soft_clip * torch.tanh(a / soft_clip), soft_clip * torch.tanh(mu / soft_clip)
        assert got_mu.abs().max() <= largest
    else:
        assert got_mu.abs().max() > largest
    torch.testing.assert_close(got_mu, mu)
    torch.testing.assert_close(sigma, torch.nn.functional.softplus(a + 0.541324854612918))


def test_sigma_is_one_where_the_block_predicts_zero():
    block = AffineBlock(CHANNELS, HEAD_DIM, 1, HEAD_DIM).double()
    mu, sigma = block.gaussians(randn(1, 3, HEAD_DIM))
    torch.testing.assert_close(mu, torch.zeros_like(mu))
    torch.testing.assert_close(sigma, torch.ones_like(sigma), atol=1e-15, rtol=0)


def bf16_case() -> tuple[StarFlow, Tensor, Tensor]:
    flow = tiny_flow(dtype=torch.bfloat16)
    return flow, randn(2, VIDEO[0], CHANNELS, *VIDEO[1:], dtype=torch.float32), random_text(2, dtype=torch.bfloat16)


def test_affine_arithmetic_is_float32_with_bf16_weights():
    """`z·sigma + mu` restores the data to float32 precision, a thousand times better than bf16 arithmetic."""
    flow, x, text = bf16_case()
    assert {parameter.dtype for parameter in flow.parameters()} == {torch.bfloat16}
    z, log_det = flow.encode(x, text)
    assert z.dtype == log_det.dtype == torch.float32
    v = flow.to_tokens(flow.encode_shallow(x), DEEP)
    mu, sigma = whole_pass(flow, v, text)
    assert mu.dtype == sigma.dtype == torch.float32
    z, log_det = flow.deep(v, flow.rotation(DEEP, VIDEO, TEXT_TOKENS), text)
    torch.testing.assert_close(mu + sigma * z, v, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_det, -sigma.log(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("noise_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("solver", [sequential, BlockJacobi(tolerance=1e-2)], ids=["sequential", "jacobi"])
def test_encoding_inverts_sampling_with_bf16_weights(solver, noise_dtype: torch.dtype):
    flow, _, text = bf16_case()
    noise = randn(2, VIDEO[0], CHANNELS, *VIDEO[1:], dtype=noise_dtype)
    x, report = sample(flow, noise, text, solver=solver)
    assert x.dtype == torch.float32
    assert (report.deep + report.shallow).converged
    error = (flow.encode(x, text).z - noise.float()).abs()
    assert error.mean() < 0.01
    assert error.max() < 0.1


@pytest.mark.parametrize("guidance_weight", [0.0, 2.0])
@pytest.mark.parametrize(
    "windows",
    [
        [range(6, 11)] * 3,
        [range(6, 11), range(2, 7), range(9, 14)],
        [range(5), range(13, 18), range(5, 6)],
        [range(18, 18), range(9), range(17, 18)],
    ],
)
def test_windows_of_a_batch_equal_evaluation_of_each_sample_alone(windows: list[range], guidance_weight: float):
    flow, v = tiny_flow(), randn(3, NUM_TOKENS, CHANNELS)
    text, null_text = random_text(3, seed=1), random_text(3, seed=2)
    gaussians = flow.conditional(DEEP, 3, VIDEO, text, null_text, guidance_weight)
    gaussians.evaluate(v, 0, NUM_TOKENS)
    changed = v + randn(3, NUM_TOKENS, CHANNELS, seed=1)
    want = []
    for row, window in enumerate(windows):
        changed[row, : window.start] = v[row, : window.start]
        one = slice(row, row + 1)
        alone = flow.conditional(DEEP, 1, VIDEO, text[one], null_text[one], guidance_weight)
        mu, sigma = alone.evaluate(changed[one], 0, NUM_TOKENS)
        want.append((mu[0, window.start : window.stop], sigma[0, window.start : window.stop]))
    got = gaussians.evaluate_windows(changed, windows)
    torch.testing.assert_close(got, tuple(map(torch.cat, zip(*want, strict=True))), atol=1e-12, rtol=0)
    again = gaussians.evaluate_windows(changed, windows)
    torch.testing.assert_close(again, got, atol=1e-12, rtol=0)


def test_windows_of_a_batch_work_with_an_8_bit_cache():
    flow, v, text = tiny_flow(), randn(2, NUM_TOKENS, CHANNELS), random_text(2)
    windows = [range(2, 6), range(5, 8)]
    means = []
    for flow.cache_dtype in (None, torch.float8_e4m3fn):
        gaussians = deep_gaussians(flow, text=text)
        gaussians.evaluate(v, 0, NUM_TOKENS)
        means.append(gaussians.evaluate_windows(v, windows)[0])
    assert 0 < (means[1] - means[0]).norm() < 0.2 * means[0].norm()
