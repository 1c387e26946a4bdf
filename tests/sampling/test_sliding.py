"""The sliding-window solver: its error bound, its number of sweeps, and the independence of samples in a batch."""

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, TEXT_TOKENS, VIDEO, randn, random_text, tiny_flow
from plans import sample
from starflow.errors import StarflowError, UsageError
from starflow.flow.block import ConditionalGaussians
from starflow.flow.model import StarFlow
from starflow.sampling.sampler import solvers_named
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import Progress, Solution, sequential, solve

NUM_TOKENS, FRAME_TOKENS = 18, 6
DEEP = 2
EXACT = 1e-12
STARTS = {
    "zeros": lambda z: torch.zeros_like(z),
    "noise": lambda z: z.clone(),
    "huge": lambda z: torch.full_like(z, 1e6),
    "beyond float32 when squared": lambda z: torch.full_like(z, 1e30),
    "alternating": lambda z: 1e3 * (-1.0) ** torch.arange(z.shape[1])[:, None] * torch.ones_like(z),
    "nan": lambda z: torch.full_like(z, torch.nan),
    "one nan": lambda z: z.clone().index_fill_(1, torch.tensor([4]), torch.nan),
    "infinite": lambda z: torch.full_like(z, torch.inf),
}


def gaussians(
    flow: StarFlow, batch: int = 3, guidance_weight: float = 0.0, rows: slice = slice(None)
) -> ConditionalGaussians:
    dtype = flow.deep.proj_in.weight.dtype
    text, null_text = random_text(batch, seed=1, dtype=dtype)[rows], random_text(batch, seed=2, dtype=dtype)[rows]
    return flow.conditional(DEEP, len(text), VIDEO, text, null_text, guidance_weight)


def noise(batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(batch, NUM_TOKENS, CHANNELS, seed=3, dtype=dtype)


def sequential_answer(flow: StarFlow, z: Tensor, guidance_weight: float = 0.0) -> Tensor:
    v = torch.full_like(z, torch.nan)
    solve(sequential, gaussians(flow, len(z), guidance_weight), z, v, 0, NUM_TOKENS)
    return v


def slide(
    flow: StarFlow, z: Tensor, window: int, tolerance: float, start: Tensor | None = None, **settings
) -> tuple[Tensor, Solution]:
    v = torch.zeros_like(z) if start is None else start.clone()
    solver = SlidingWindow(window, tolerance, **settings)
    return v, solve(solver, gaussians(flow, len(z)), z, v, 0, NUM_TOKENS, FRAME_TOKENS)


@pytest.mark.parametrize("window", [1, 2, 5, 6, 17, 18, 64])
@pytest.mark.parametrize("guidance_weight", [0.0, 2.0])
def test_the_solver_equals_the_sequential_one_at_a_tight_tolerance(window: int, guidance_weight: float):
    flow, z = tiny_flow(), noise()
    v = torch.zeros_like(z)
    solver = SlidingWindow(window, EXACT)
    solution = solve(solver, gaussians(flow, 3, guidance_weight), z, v, 0, NUM_TOKENS, FRAME_TOKENS)
    torch.testing.assert_close(v, sequential_answer(flow, z, guidance_weight), atol=1e-10, rtol=0)
    assert solution.converged
    assert solution.max_residual <= EXACT
    assert solution.tokens == 3 * NUM_TOKENS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("window", [4, 18])
def test_the_solver_converges_from_any_start_in_at_most_one_sweep_per_token(start, window: int, dtype: torch.dtype):
    """A sweep that meets a NaN restarts from the noise, which costs one more sweep."""
    flow, z = tiny_flow(dtype=dtype), noise(dtype=dtype)
    v, solution = slide(flow, z, window, 0.0, start(z))
    torch.testing.assert_close(v, sequential_answer(flow, z), atol=1e-10 if dtype == torch.float64 else 1e-4, rtol=0)
    assert solution.converged
    assert solution.sweeps <= NUM_TOKENS + 1


@pytest.mark.parametrize("window", [2, 5, 18])
@pytest.mark.parametrize("start", [STARTS["huge"], STARTS["alternating"]], ids=["huge", "alternating"])
def test_every_sweep_settles_at_least_one_token(start, window: int):
    flow, z = tiny_flow(), noise(1)
    v = start(z)
    last = 0
    for settled, done in SlidingWindow(window, 0.0)(gaussians(flow, 1), z, v, 0, NUM_TOKENS, FRAME_TOKENS):
        assert settled > last
        assert done.tokens == settled - last
        last = settled
    assert last == NUM_TOKENS


@pytest.mark.parametrize("window", [1, 5])
def test_settled_tokens_never_change(window: int):
    flow, z = tiny_flow(), noise()
    v, last, kept = z.clone(), 0, None
    for settled, _ in SlidingWindow(window, 0.1)(gaussians(flow), z, v, 0, NUM_TOKENS, FRAME_TOKENS):
        if kept is not None:
            assert torch.equal(v[:, :last], kept)
        last, kept = settled, v[:, :settled].clone()
    assert last == NUM_TOKENS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("guidance_weight", [0.0, 2.0])
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-4])
def test_the_residual_is_at_most_the_tolerance(tolerance: float, guidance_weight: float, dtype: torch.dtype):
    """The result is the exact sample of a noise that differs from `z` by at most the tolerance."""
    flow, z = tiny_flow(dtype=dtype), noise(dtype=dtype)
    v = torch.zeros_like(z)
    solver = SlidingWindow(7, tolerance)
    solution = solve(solver, gaussians(flow, 3, guidance_weight), z, v, 0, NUM_TOKENS, FRAME_TOKENS)
    mu, sigma = gaussians(flow, 3, guidance_weight).evaluate(v, 0, NUM_TOKENS)
    off = ((v - mu) / sigma - z).abs().max().item()
    rounding = 1e-12 if dtype == torch.float64 else 1e-5
    assert off == pytest.approx(solution.max_residual, abs=rounding)
    assert 0 < off <= tolerance + rounding
    if not guidance_weight:
        text = random_text(3, seed=1, dtype=dtype)
        encoded, _ = flow.deep(v, flow.rotation(DEEP, VIDEO, TEXT_TOKENS), text)
        assert (encoded - z).abs().max().item() <= tolerance + rounding


@pytest.mark.parametrize("window", [1, 4, 18])
def test_the_cache_matches_the_returned_tokens(window: int):
    flow, z = tiny_flow(), noise(1)
    v, solved = torch.zeros_like(z), gaussians(flow, 1)
    solve(SlidingWindow(window, 0.1), solved, z, v, 0, NUM_TOKENS, FRAME_TOKENS)
    fresh = gaussians(flow, 1)
    fresh.evaluate(v, 0, NUM_TOKENS)
    torch.testing.assert_close(solved.cache.buffer, fresh.cache.buffer, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shallow_window", [1, 4, 64])
@pytest.mark.parametrize("tolerance", [0.1, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_encoding_a_sample_gives_its_noise_within_the_tolerance(
    shallow_window: int, tolerance: float, dtype: torch.dtype
):
    """This holds for the whole flow, shallow blocks included."""
    flow, text = tiny_flow(dtype=dtype), random_text(2, dtype=dtype)
    z = randn(2, VIDEO[0], CHANNELS, *VIDEO[1:], seed=4, dtype=dtype)
    solvers = solvers_named("sliding", tolerance=tolerance, block_size=7, shallow_block_size=shallow_window)
    x, report = sample(flow, z, text, solver=solvers)
    off = (flow.encode(x, text).z - z).abs().max().item()
    assert 0 < off <= tolerance + (0 if dtype == torch.float64 else 1e-5)
    assert report.deep.converged
    assert report.shallow.converged
    assert report.shallow.max_residual <= 0.01 * tolerance


@pytest.mark.parametrize("window", [3, 7, 18])
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(window: int):
    """Neither its values, even at a loose tolerance, nor its sweeps do; a batch takes as many as its slowest sample."""
    flow, z = tiny_flow(), noise()
    start = torch.zeros_like(z)
    start[1] = 1e6
    v, solution = slide(flow, z, window, 0.1, start)
    alone = []
    for index in range(3):
        row = slice(index, index + 1)
        one = start[row].clone()
        solver = SlidingWindow(window, 0.1)
        alone.append(solve(solver, gaussians(flow, rows=row), z[row], one, 0, NUM_TOKENS, FRAME_TOKENS))
        torch.testing.assert_close(v[row], one, atol=1e-10, rtol=0)
    assert len({one.sweeps for one in alone}) > 1
    assert solution.sweeps == max(one.sweeps for one in alone)
    assert solution.max_residual == pytest.approx(max(one.max_residual for one in alone), rel=1e-6)


@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_window_sizes_agree_within_the_tolerance(tolerance: float):
    flow, z = tiny_flow(), noise()
    want = sequential_answer(flow, z)
    for window in (2, 4, 8, 18):
        v, _ = slide(flow, z, window, tolerance)
        assert (v - want).abs().max() < 3 * tolerance


def test_tokens_outside_the_solved_range_do_not_change():
    flow, z = tiny_flow(), noise()
    answer = sequential_answer(flow, z)
    v, solved = torch.zeros_like(z), gaussians(flow)
    v[:, :6] = answer[:, :6]
    solved.evaluate(v, 0, 6)
    progress = list(SlidingWindow(4, EXACT)(solved, z, v, 6, 12, FRAME_TOKENS))
    assert progress[-1].settled == 12
    assert sum((step.done for step in progress), Solution()).tokens == 3 * 6
    assert torch.equal(v[:, :6], answer[:, :6])
    torch.testing.assert_close(v[:, 6:12], answer[:, 6:12], atol=1e-10, rtol=0)
    assert torch.equal(v[:, 12:], torch.zeros_like(v[:, 12:]))


def test_tokens_start_from_the_previous_frame():
    """If the Gaussians and the noise repeat in every frame, later frames start at their solution."""

    class Still:
        """Gaussians that depend only on the position in the frame."""

        def evaluate_windows(self, v: Tensor, windows: list[range]) -> tuple[Tensor, Tensor]:
            place = torch.tensor([[token % FRAME_TOKENS] * CHANNELS for window in windows for token in window])
            return place.to(v.dtype), torch.ones_like(place)

        def keep(self, rows: list[int]) -> None: ...

    z = randn(1, FRAME_TOKENS, CHANNELS).repeat(1, 3, 1)
    v = torch.full_like(z, 7.0)
    solution = solve(SlidingWindow(FRAME_TOKENS, EXACT), Still(), z, v, 0, 18, FRAME_TOKENS)
    assert torch.equal(v[:, 6:12], v[:, :6])
    # sweep 1 settles one token and corrects the others, sweep 2 settles those and a copy, sweeps 3 and 4 the rest
    assert solution.sweeps == 4


def test_reaching_max_sweeps_is_a_warning_or_an_error():
    flow, z = tiny_flow(), noise()
    with pytest.warns(RuntimeWarning, match="after 2 sweeps, the residual of a token is .* above the tolerance"):
        v, solution = slide(flow, z, 6, EXACT, max_sweeps=2)
    assert not solution.converged
    assert solution.max_residual > EXACT
    mu, sigma = gaussians(flow).evaluate(v, 0, NUM_TOKENS)
    assert ((v - mu) / sigma - z).abs().max().item() == pytest.approx(solution.max_residual, rel=1e-9)
    with pytest.raises(StarflowError, match="increase max_sweeps"):
        slide(flow, z, 6, EXACT, max_sweeps=2, on_unconverged="raise")
    _, enough = slide(flow, z, 6, EXACT, max_sweeps=7, on_unconverged="raise")
    assert enough.converged


@pytest.mark.parametrize("window", [2, 18])
@pytest.mark.parametrize("where", ["weights", "noise"])
def test_nan_in_the_weights_or_the_noise_is_an_error(where: str, window: int):
    flow, z = tiny_flow(), noise()
    if where == "weights":
        flow.deep.transformer.layers[1].mlp.down.weight[0, 0] = torch.nan
    else:
        z[1, 9, 0] = torch.nan
    with pytest.raises(StarflowError, match="NaN"):
        slide(flow, z, window, 1e-2)


def test_the_solver_yields_its_progress():
    flow, z = tiny_flow(), noise()
    steps = SlidingWindow(4, 1e-2)(gaussians(flow), z, torch.zeros_like(z), 0, NUM_TOKENS, FRAME_TOKENS)
    assert isinstance(next(iter(steps)), Progress)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "at least"),
        ({"max_sweeps": 0}, "at least"),
        ({"tolerance": -1.0}, "at least"),
        ({"tolerance": torch.nan}, "at least"),
        ({"on_unconverged": "ignore"}, "warn or raise"),
    ],
)
def test_invalid_settings_are_refused(settings: dict, message: str):
    with pytest.raises(UsageError, match=message):
        SlidingWindow(**settings)
