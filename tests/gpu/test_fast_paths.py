"""Every fast path against its plain path, on the device, in float32 and in bfloat16."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from invertible_maps import randomize
from plans import sample
from starflow.encoders.video import WanDecoderStream, wan_decode
from starflow.flow.block import ConditionalGaussians
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.denoiser_stream import stream_predictions
from starflow.flow.guidance import guide
from starflow.flow.model import StarFlow
from starflow.flow.transformer import causal_attention, causal_mask
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import BlockJacobi, sequential
from tiny_pipeline import tiny_vae

pytestmark = pytest.mark.gpu
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RELATIVE_ERROR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
CHANNELS, TEXT_WIDTH, TEXT_TOKENS = 8, 32, 5
GRID = (3, 10, 12)  # 360 tokens: more than a chunk of queries


@pytest.fixture(params=DTYPES.values(), ids=DTYPES)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def small_flow(device: torch.device, dtype: torch.dtype) -> StarFlow:
    """Heads as wide as in the released models, for the same kernels; outputs small, so that all is well-conditioned."""
    flow = StarFlow(CHANNELS, [1, 1], 2, 128, 128, 64, TEXT_WIDTH, position_length=4)
    randomize(flow, dtype=torch.float32)
    for block in flow.blocks:
        block.proj_out.weight *= 0.2
    return flow.to(device, dtype)


def relative_error(got: Tensor, want: Tensor) -> float:
    assert torch.isfinite(got).all()
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def assert_near(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.shape == want.shape
    assert relative_error(got, want) < RELATIVE_ERROR[dtype]


@pytest.mark.parametrize(("n", "m"), [(300, 300), (1, 300), (100, 300), (300, 700), (256, 257)])
def test_attention(n: int, m: int, device: torch.device, dtype: torch.dtype):
    q, k, v = (torch.randn(2, 3, length, 64, device=device, dtype=dtype) for length in (n, m, m))
    scores = (q.double() @ k.double().transpose(-1, -2)) / 8
    plain = (scores + causal_mask(n, m, scores)).softmax(-1) @ v.double()
    assert_near(causal_attention(q, k, v), plain, dtype)


def gaussians_of(flow: StarFlow, text: Tensor, null_text: Tensor, scale: float) -> ConditionalGaussians:
    return flow.conditional(flow.num_blocks - 1, len(text), GRID, text, null_text, scale)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 3.5])
def test_pieces_behind_a_cache(scale: float, device: torch.device, dtype: torch.dtype):
    flow = small_flow(device, dtype)
    v = torch.randn(2, 360, CHANNELS, device=device)
    text, null_text = torch.randn(2, 2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    rotation = flow.rotation(flow.num_blocks - 1, GRID, TEXT_TOKENS)
    plain = flow.deep.predict(v, rotation, text)
    if scale:
        plain = guide(*plain, *flow.deep.predict(v, rotation, null_text), scale)
    gaussians = gaussians_of(flow, text, null_text, scale)
    bounds = [0, 1, 31, 340, 360]
    pieces = [gaussians.evaluate(v, *span) for span in pairwise(bounds)]
    for got, want in zip(map(torch.cat, zip(*pieces, strict=True), [1, 1]), plain, strict=True):
        assert_near(got, want, dtype)


@torch.no_grad()
@pytest.mark.parametrize("cache_dtype", [None, torch.float8_e4m3fn], ids=["full cache", "8-bit cache"])
def test_windows_at_other_places_of_each_sample(
    cache_dtype: torch.dtype | None, device: torch.device, dtype: torch.dtype
):
    flow = small_flow(device, dtype)
    flow.cache_dtype = cache_dtype
    v = torch.randn(2, 360, CHANNELS, device=device)
    text, null_text = torch.randn(2, 2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    gaussians = gaussians_of(flow, text, null_text, 3.5)
    gaussians.evaluate(v, 0, 200)
    mu, sigma = gaussians.evaluate_windows(v, windows := [range(150, 190), range(7, 20)])
    assert len(mu) == sum(map(len, windows))
    for row, window in enumerate(windows):
        alone = gaussians_of(flow, text[row : row + 1], null_text[row : row + 1], 3.5)
        alone.evaluate(v[row : row + 1], 0, window.start)
        want = alone.evaluate(v[row : row + 1], window.start, window.stop)
        part = slice(0, len(windows[0])) if row == 0 else slice(len(windows[0]), None)
        # values that round to other 8-bit numbers make a larger difference
        near = torch.bfloat16 if cache_dtype is not None else dtype
        assert_near(mu[part], want[0][0], near)
        assert_near(sigma[part], want[1][0], near)


@torch.no_grad()
def test_an_8_bit_cache_is_near_a_full_one(device: torch.device, dtype: torch.dtype):
    flow = small_flow(device, dtype)
    v = torch.randn(2, 360, CHANNELS, device=device)
    text = torch.randn(2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    mu = {}
    for flow.cache_dtype in (None, torch.float8_e4m3fn):
        gaussians = gaussians_of(flow, text, text, 0.0)
        gaussians.evaluate(v, 0, 300)
        mu[flow.cache_dtype] = gaussians.evaluate(v, 300, 360)[0]
    assert gaussians.cache.buffer.dtype == torch.float8_e4m3fn
    assert 0 < relative_error(mu[torch.float8_e4m3fn], mu[None]) < 0.1


@torch.no_grad()
def test_denoising_frame_by_frame(device: torch.device, dtype: torch.dtype):
    denoiser = randomize(CausalDenoiser(CHANNELS, 128, 3, 64, TEXT_WIDTH, 4, window=2), dtype=dtype).to(device)
    x = torch.randn(2, 7, CHANNELS, 4, 5, device=device)
    text = torch.randn(2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    pieces = [prediction for _, prediction in stream_predictions(denoiser, x.split(1, dim=1), text)]
    assert len(pieces) > 1
    assert_near(torch.cat(pieces, dim=1), denoiser(x, text), dtype)


@torch.no_grad()
@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "in tiles"])
def test_decoding_frame_by_frame(tiled: bool, device: torch.device, dtype: torch.dtype):
    vae = tiny_vae().to(device, dtype)
    z = torch.randn(1, vae.config.z_dim, 3, 4, 6, device=device, dtype=dtype)
    want = wan_decode(vae, z)
    if tiled:
        vae.enable_tiling(tile_sample_min_height=16, tile_sample_min_width=32)
    stream = WanDecoderStream(vae)
    assert_near(torch.cat([stream(frame) for frame in z.split(1, dim=2)], dim=2), want, dtype)


SOLVERS = {"block-jacobi": BlockJacobi(64, 1e-5), "sliding": SlidingWindow(64, 1e-5)}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_iteration_equals_sequential(solver, device: torch.device):
    flow = small_flow(device, torch.float32)
    noise = torch.randn(2, 2, CHANNELS, 6, 8, device=device)
    text, null_text = torch.randn(2, 2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    want, _ = sample(flow, noise, text, null_text, 3.5, solver=sequential)
    got, report = sample(flow, noise, text, null_text, 3.5, solver=solver)
    assert report.deep.converged
    assert report.deep.sweeps < 96  # it evaluated many tokens at once
    assert relative_error(got, want) < 1e-4


@torch.no_grad()
def test_the_certificate_holds(device: torch.device):
    """The flow encodes a sample to a noise that differs from the given one by at most the tolerance."""
    flow, tolerance = small_flow(device, torch.float32), 1e-2
    noise = torch.randn(2, 2, CHANNELS, 6, 8, device=device)
    text = torch.randn(2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    x, report = sample(flow, noise, text, solver=SlidingWindow(64, tolerance))
    u = flow.encode_shallow(x)
    assert 0 < report.deep.max_residual <= tolerance
    z = flow.run_block(flow.num_blocks - 1, u, text).hidden.permute(0, 1, 4, 2, 3)
    assert 0 < (z - noise).abs().max() < 10 * tolerance  # as the shallow blocks were iterated too


@torch.no_grad()
def test_the_certificate_of_the_deep_block_alone(device: torch.device, dtype: torch.dtype):
    flow = small_flow(device, dtype)
    deep = flow.num_blocks - 1
    text = torch.randn(2, TEXT_TOKENS, TEXT_WIDTH, device=device)
    gaussians = gaussians_of(flow, text, text, 0.0)
    z = torch.randn(2, 360, CHANNELS, device=device)
    v, tolerance = z.clone(), 5e-2
    done = list(SlidingWindow(64, tolerance)(gaussians, z, v, 0, 360, 120))
    assert done[-1].settled == 360
    assert max(progress.done.max_residual for progress in done) <= tolerance
    encoded, _ = flow.deep(v, flow.rotation(deep, GRID, TEXT_TOKENS), text)
    # in bfloat16 a parallel pass rounds in other ways than the sweeps did
    slack = 1e-4 if dtype == torch.float32 else tolerance
    assert (encoded - z).abs().max() <= tolerance + slack
