"""Solvers on one block: exact results from any start, a bounded number of sweeps, and correct reports."""

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, TEXT_TOKENS, VIDEO, randn, random_text, tiny_flow
from starflow.errors import StarflowError, UsageError
from starflow.flow.block import ConditionalGaussians
from starflow.flow.model import StarFlow
from starflow.sampling.solvers import BlockJacobi, Solution, require_finite, sequential, solve

NUM_TOKENS = 18
DEEP = 2
EXACT = 1e-12
STARTS = {
    "zeros": lambda z: torch.zeros_like(z),
    "noise": lambda z: z.clone(),
    "huge": lambda z: torch.full_like(z, 1e6),
    "alternating": lambda z: 1e3 * (-1.0) ** torch.arange(z.shape[1])[:, None] * torch.ones_like(z),
    "other noise": lambda z: randn(*z.shape, seed=99),
}


class Counted:
    """Gaussians that count how often they are evaluated."""

    def __init__(self, gaussians: ConditionalGaussians):
        self.gaussians, self.sweeps, self.tokens = gaussians, 0, 0

    def evaluate(self, v: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        self.sweeps += 1
        self.tokens += v.shape[0] * (stop - start)
        return self.gaussians.evaluate(v, start, stop)


def gaussians(flow: StarFlow, batch: int = 2, guidance_weight: float = 0.0) -> ConditionalGaussians:
    text, null_text = random_text(batch, seed=1), random_text(batch, seed=2)
    return flow.conditional(DEEP, batch, VIDEO, text, null_text, guidance_weight)


def noise(batch: int = 2) -> Tensor:
    return randn(batch, NUM_TOKENS, CHANNELS, seed=3)


def sequential_answer(flow: StarFlow, z: Tensor, guidance_weight: float = 0.0) -> Tensor:
    v = torch.full_like(z, torch.nan)
    solution = solve(sequential, gaussians(flow, len(z), guidance_weight), z, v, 0, NUM_TOKENS)
    assert solution == Solution(sweeps=NUM_TOKENS, evaluations=z.numel() // CHANNELS, tokens=z.numel() // CHANNELS)
    return v


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("block_size", [1, 4, 6, 64])
def test_jacobi_finds_the_sequential_answer_from_any_start(start, block_size: int):
    flow, z = tiny_flow(), noise()
    v, counted = start(z), Counted(gaussians(flow))
    solution = solve(BlockJacobi(block_size, EXACT), counted, z, v, 0, NUM_TOKENS)
    torch.testing.assert_close(v, sequential_answer(flow, z), atol=1e-10, rtol=0)
    assert solution.converged
    assert solution.max_residual <= EXACT
    assert (solution.sweeps, solution.evaluations, solution.tokens) == (counted.sweeps, counted.tokens, 2 * NUM_TOKENS)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_block_of_n_tokens_takes_at_most_n_plus_one_sweeps(start):
    """Even at tolerance 0: after `n` sweeps no token changes, and one more sweep confirms it."""
    flow, z = tiny_flow(), noise()
    v = start(z)
    solution = solve(BlockJacobi(block_size=6, tolerance=0.0), gaussians(flow), z, v, 0, 6)
    assert solution.converged
    assert solution.max_residual == 0
    assert solution.sweeps <= 7


@pytest.mark.parametrize("sweeps", [1, 3, 5])
def test_after_k_sweeps_the_first_k_tokens_are_exact(sweeps: int):
    flow, z = tiny_flow(), noise()
    v = torch.full_like(z, 1e6)
    solve(BlockJacobi(NUM_TOKENS, EXACT, max_sweeps=sweeps + 1), gaussians(flow), z, v, 0, NUM_TOKENS)
    error = (v - sequential_answer(flow, z)).abs().amax(dim=(0, 2))
    assert (error[:sweeps] < 1e-10).all()
    assert (error[sweeps:] > 1e-6).all()


def test_too_few_sweeps_are_reported_as_not_converged():
    flow, z = tiny_flow(), noise()
    v = z.clone()
    solution = solve(BlockJacobi(NUM_TOKENS, EXACT, max_sweeps=3), gaussians(flow), z, v, 0, NUM_TOKENS)
    assert not solution.converged
    assert solution.sweeps == 3
    assert solution.max_residual > EXACT
    finished = solve(BlockJacobi(6, EXACT), gaussians(flow), z, z.clone(), 0, NUM_TOKENS)
    assert not (solution + finished).converged
    assert not (finished + solution).converged
    assert (finished + solution).max_residual == solution.max_residual


def test_a_solved_start_takes_one_sweep_per_block():
    flow, z = tiny_flow(), noise()
    answer = sequential_answer(flow, z)
    v = answer.clone()
    solution = solve(BlockJacobi(6, 1e-10), gaussians(flow), z, v, 0, NUM_TOKENS)
    assert solution.sweeps == 3
    assert torch.equal(v, answer)


def test_tokens_outside_the_solved_range_do_not_change():
    flow, z = tiny_flow(), noise()
    answer = sequential_answer(flow, z)
    for solver in (sequential, BlockJacobi(4, EXACT)):
        v = torch.zeros_like(z)
        v[:, :6] = answer[:, :6]
        solved = gaussians(flow)
        solved.evaluate(v, 0, 6)
        solve(solver, solved, z, v, 6, 12)
        assert torch.equal(v[:, :6], answer[:, :6])
        torch.testing.assert_close(v[:, 6:12], answer[:, 6:12], atol=1e-10, rtol=0)
        assert torch.equal(v[:, 12:], torch.zeros_like(v[:, 12:]))


@pytest.mark.parametrize("guidance_weight", [0.0, 2.0])
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-5])
def test_the_residual_is_the_error_of_the_noise_and_at_most_the_tolerance(tolerance: float, guidance_weight: float):
    """The result is the exact sample of a noise that differs from `z` by the residual; the cache matches the result."""
    flow, z = tiny_flow(), noise()
    v, solved = torch.zeros_like(z), gaussians(flow, guidance_weight=guidance_weight)
    solution = solve(BlockJacobi(6, tolerance), solved, z, v, 0, NUM_TOKENS)
    mu, sigma = gaussians(flow, guidance_weight=guidance_weight).evaluate(v, 0, NUM_TOKENS)
    off = ((v - mu) / sigma - z).abs().max().item()
    assert off == pytest.approx(solution.max_residual, rel=1e-9)
    assert 0 < off <= tolerance
    if not guidance_weight:
        encoded, _ = flow.deep(v, flow.rotation(DEEP, VIDEO, TEXT_TOKENS), random_text(2, seed=1))
        assert (encoded - z).abs().max().item() == pytest.approx(off, rel=1e-9)
    fresh = gaussians(flow, guidance_weight=guidance_weight)
    fresh.evaluate(v, 0, NUM_TOKENS)
    torch.testing.assert_close(solved.cache.buffer, fresh.cache.buffer, atol=1e-12, rtol=0)


def test_a_sample_does_not_depend_on_the_rest_of_its_batch():
    """Even at a loose tolerance: a sample no longer changes once its own residual is small enough."""
    flow, z, text = tiny_flow(), noise(3), random_text(3)
    solver = BlockJacobi(NUM_TOKENS, tolerance=0.1)
    v = torch.zeros_like(z)
    v[1] = 1e6
    solve(solver, flow.conditional(DEEP, 3, VIDEO, text), z, v, 0, NUM_TOKENS)
    for index in range(3):
        one = slice(index, index + 1)
        alone = torch.full_like(z[one], 1e6 if index == 1 else 0.0)
        solve(solver, flow.conditional(DEEP, 1, VIDEO, text[one]), z[one], alone, 0, NUM_TOKENS)
        torch.testing.assert_close(v[one], alone, atol=1e-10, rtol=0)


def test_convergence_is_judged_for_each_sample():
    """A mean over the batch would accept a wrong sample among right ones."""
    flow, z, text = tiny_flow(), noise(3), random_text(3)
    want = torch.zeros_like(z)
    solve(sequential, flow.conditional(DEEP, 3, VIDEO, text), z, want, 0, NUM_TOKENS)
    v = want.clone()
    v[1] += 1.0
    solve(BlockJacobi(NUM_TOKENS, 1e-2), flow.conditional(DEEP, 3, VIDEO, text), z, v, 0, NUM_TOKENS)
    assert (v - want).abs().max() < 0.1
    assert torch.equal(v[::2], want[::2])


@pytest.mark.parametrize("solver", [sequential, BlockJacobi(4, EXACT)], ids=["sequential", "jacobi"])
def test_settled_tokens_are_final(solver):
    flow, z = tiny_flow(), noise()
    v, last = z.clone(), 0
    for settled, done in solver(gaussians(flow), z, v, 0, NUM_TOKENS, 6):
        assert last < settled <= NUM_TOKENS
        assert done.tokens == 2 * (settled - last)
        last, v[:, settled:] = settled, 7.0
    assert last == NUM_TOKENS
    torch.testing.assert_close(v, sequential_answer(flow, z), atol=1e-10, rtol=0)


def test_later_frames_start_from_the_previous_frame():
    flow, z = tiny_flow(), noise()
    seen: list[Tensor] = []

    class Watched(Counted):
        def evaluate(self, v: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            seen.append(v[:, start:stop].clone())
            return super().evaluate(v, start, stop)

    v = z.clone()
    solve(BlockJacobi(6, tolerance=1e9), Watched(gaussians(flow)), z, v, 0, NUM_TOKENS, frame_tokens=6)
    assert len(seen) == 3
    assert torch.equal(seen[0], z[:, :6])
    assert torch.equal(seen[1], seen[0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_start_with_nan_or_infinity_is_an_error(bad: float):
    flow, z = tiny_flow(), noise()
    v = z.clone()
    v[0, 4] = bad
    with pytest.raises(StarflowError, match="NaN"):
        solve(BlockJacobi(6, EXACT), gaussians(flow), z, v, 0, NUM_TOKENS)


def test_nan_in_the_weights_is_an_error_at_the_first_sweep():
    flow, z = tiny_flow(), noise()
    flow.deep.transformer.layers[1].mlp.down.weight[0, 0] = torch.nan
    counted = Counted(gaussians(flow))
    with pytest.raises(StarflowError, match="NaN"):
        solve(BlockJacobi(6, EXACT), counted, z, z.clone(), 0, NUM_TOKENS)
    assert counted.sweeps == 1


@pytest.mark.parametrize(
    "settings", [{"block_size": 0}, {"max_sweeps": 0}, {"tolerance": -1.0}, {"tolerance": torch.nan}]
)
def test_invalid_settings_are_refused(settings: dict[str, float]):
    with pytest.raises(UsageError, match="at least"):
        BlockJacobi(**settings)


def test_require_finite_returns_finite_tensors_and_refuses_others():
    x = torch.ones(3)
    assert require_finite(x, "x") is x
    for bad in (torch.nan, torch.inf):
        with pytest.raises(StarflowError, match="a thing has NaN or infinite"):
            require_finite(torch.tensor([1.0, bad]), "a thing")
