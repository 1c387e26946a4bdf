"""Sampling latents from noise with the whole flow: prefixes, rolling windows, determinism, errors."""

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, randn, random_text, tiny_flow
from plans import plan, sample
from starflow.errors import StarflowError, UsageError
from starflow.sampling.published import PublishedJacobi
from starflow.sampling.sampler import RollingWindow, deep_frames, invert_shallow, solvers_named
from starflow.sampling.sampler import sample as pieces
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import BlockJacobi, Solver, Solvers, sequential

HEIGHT, WIDTH = 2, 3
EXACT = BlockJacobi(block_size=4, tolerance=1e-12)


def noise(num_frames: int, batch: int = 2, seed: int = 0) -> Tensor:
    return randn(batch, num_frames, CHANNELS, HEIGHT, WIDTH, seed=seed)


def assert_same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-9, rtol=0)


def test_the_same_noise_gives_the_same_sample():
    flow, text = tiny_flow(), random_text(2)
    first, _ = sample(flow, noise(3), text)
    again, _ = sample(flow, noise(3), text)
    other, _ = sample(flow, noise(3, seed=1), text)
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


def test_sampling_does_not_change_its_inputs():
    z, prefix = noise(3), noise(1, seed=1)
    before = z.clone(), prefix.clone()
    sample(tiny_flow(), z, random_text(2), prefix=prefix)
    assert torch.equal(z, before[0])
    assert torch.equal(prefix, before[1])


SOLVERS = {"jacobi": EXACT, "sliding": Solvers(SlidingWindow(4, 1e-12), SlidingWindow(3, 1e-12))}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("guidance_weight", [0.0, 2.0])
def test_iterative_solvers_equal_sequential_sampling(guidance_weight: float, solver):
    flow, text, null_text = tiny_flow(), random_text(2, seed=1), random_text(2, seed=2)
    want, _ = sample(flow, noise(3), text, null_text, guidance_weight, solver=sequential)
    got, report = sample(flow, noise(3), text, null_text, guidance_weight, solver=solver)
    assert_same(got, want)
    assert (report.deep + report.shallow).converged


def test_the_default_solver_is_close_to_sequential_sampling():
    flow, text = tiny_flow(), random_text(2)
    want, _ = sample(flow, noise(3), text, solver=sequential)
    got, report = sample(flow, noise(3), text)
    assert report.deep.max_residual <= 1e-2
    assert report.shallow.max_residual == 0
    assert 0 < (got - want).abs().max() < 0.1


@pytest.mark.parametrize("num_given", [1, 2])
def test_continuing_the_beginning_of_a_sample_gives_that_sample(num_given: int):
    """If the prefix is the beginning of the sample of the same noise, the result is that sample."""
    flow, text, null_text, z = tiny_flow(), random_text(2, seed=1), random_text(2, seed=2), noise(4)
    whole, _ = sample(flow, z, text, null_text, 2.0, solver=EXACT)
    scrambled = z.clone()
    scrambled[:, :num_given] = torch.nan
    got, _ = sample(flow, scrambled, text, null_text, 2.0, prefix=whole[:, :num_given], solver=EXACT)
    assert torch.equal(got[:, :num_given], whole[:, :num_given])
    assert_same(got, whole)


def test_a_shorter_sample_is_the_beginning_of_a_longer_one():
    flow, text = tiny_flow(), random_text(2)
    long, _ = sample(flow, noise(4), text, solver=EXACT)
    short, _ = sample(flow, noise(4)[:, :2], text, solver=EXACT)
    assert_same(long[:, :2], short)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("num_given", [0, 1, 4])
def test_a_rolling_window_is_a_chain_of_continuations(num_given: int, solver):
    """Window 3, context 2: each frame after the first 3 is a continuation of the 2 frames before it."""
    flow, text, z = tiny_flow(), random_text(2), noise(6)
    given = noise(num_given, seed=1) if num_given else None
    got, _ = sample(flow, z, text, prefix=given, rolling_window=RollingWindow(3, 2), solver=solver)
    if num_given < 3:
        frames, _ = sample(flow, z[:, :3], text, prefix=given, solver=EXACT)
    else:
        frames = given
    while frames.shape[1] < 6:
        end = frames.shape[1] + 1
        step, _ = sample(flow, z[:, end - 3 : end], text, prefix=frames[:, -2:], solver=EXACT)
        frames = torch.cat([frames, step[:, 2:]], dim=1)
    assert_same(got, frames)


def test_a_rolling_window_larger_than_the_video_changes_nothing():
    flow, text = tiny_flow(), random_text(2)
    want, _ = sample(flow, noise(3), text, solver=EXACT)
    got, _ = sample(flow, noise(3), text, rolling_window=RollingWindow(21, 16), solver=EXACT)
    assert torch.equal(got, want)


def test_an_image_is_sampled_as_a_video_of_one_frame():
    flow, text, z = tiny_flow(), random_text(2), noise(1)
    x, report = sample(flow, z, text, solver=EXACT)
    assert x.shape == z.shape
    assert_same(flow.encode(x, text).z, z)
    assert report.deep.tokens == 2 * HEIGHT * WIDTH


def test_on_frame_receives_each_frame_that_the_deep_block_finishes():
    flow, text, frames = tiny_flow(), random_text(2), {}
    x, _ = sample(flow, noise(4), text, prefix=noise(1), solver=EXACT, on_frame=frames.__setitem__)
    assert list(frames) == [1, 2, 3]
    assert_same(torch.cat(list(frames.values()), dim=1), flow.encode_shallow(x)[:, 1:])


@pytest.mark.parametrize("solver", [EXACT, sequential, SlidingWindow(16, 1e-12)])
@pytest.mark.parametrize("window", [RollingWindow(), RollingWindow(3, 1)])
def test_frames_after_a_changed_frame_are_sampled_given_the_changed_frame(solver: Solver, window: RollingWindow):
    flow, text, z = tiny_flow(), random_text(2), noise(5)
    unchanged, _ = sample(flow, z, text, rolling_window=window, solver=solver)

    def double_frame_1(index: int, u: torch.Tensor) -> None:
        if index == 1:
            u *= 2

    x, _ = sample(flow, z, text, rolling_window=window, solver=solver, on_frame=double_frame_1)
    assert_same(x[:, :1], unchanged[:, :1])
    want, _ = sample(flow, z, text, prefix=x[:, :2].clone(), rolling_window=window, solver=solver)
    assert_same(x, want)
    assert not torch.allclose(x[:, 2:], unchanged[:, 2:], atol=1e-3)


def test_sampling_stops_after_a_frame_for_which_on_frame_returns_true():
    flow, text, z = tiny_flow(), random_text(2), noise(4)
    whole, _ = sample(flow, z, text, solver=EXACT)
    part, _ = sample(flow, z, text, solver=EXACT, on_frame=lambda index, _: index == 1)
    assert_same(part, whole[:, :2])


def test_frames_are_yielded_once_final_and_the_report_counts_their_sweeps():
    planned, sweeps = plan(noise(4), random_text(2), solver=sequential), []
    for u in deep_frames(tiny_flow(), planned):
        assert u.shape == (2, 1, HEIGHT, WIDTH, CHANNELS)
        sweeps.append(planned.report.deep.sweeps)
    assert sweeps == [6, 12, 18, 24]


def test_sampling_records_no_gradients_and_keeps_the_callers_grad_mode():
    flow, planned = tiny_flow().requires_grad_(), plan(noise(3), random_text(2), solver=EXACT)
    for u in deep_frames(flow, planned):
        assert torch.is_grad_enabled()
        assert not u.requires_grad
        assert not invert_shallow(flow, u, planned).requires_grad
    for x in pieces(flow, planned):
        assert torch.is_grad_enabled()
        assert not x.requires_grad


@pytest.mark.parametrize(
    "solver",
    [sequential, BlockJacobi(6, 0.1), SlidingWindow(6, 0.1)],
    ids=["sequential", "jacobi", "sliding"],
)
def test_shallow_blocks_invert_each_frame_independently(solver):
    flow, u = tiny_flow(), noise(4).permute(0, 1, 3, 4, 2)
    planned = plan(noise(4), random_text(2), solver=solver)
    whole = invert_shallow(flow, u, planned)
    for frame in range(4):
        alone = invert_shallow(flow, u[:1, frame : frame + 1], planned)
        assert_same(alone, whole[:1, frame : frame + 1])


def test_the_report_counts_tokens_and_says_whether_sampling_converged():
    flow, text = tiny_flow(), random_text(2)
    _, report = sample(flow, noise(4), text, prefix=noise(1), solver=sequential)
    assert report.deep.tokens == 2 * 3 * HEIGHT * WIDTH  # two samples
    assert report.shallow.tokens == 2 * 2 * 3 * HEIGHT * WIDTH  # in two blocks
    assert str(report) == "30 sweeps (18 deep), 1.0 evaluations per token, largest residual 0.0e+00, converged"
    _, report = sample(flow, noise(2), text, solver=BlockJacobi(max_sweeps=2, tolerance=1e-12))
    assert str(report).endswith("NOT converged")


def test_solvers_are_built_by_name():
    sizes = {"block_size": 8, "shallow_block_size": 2}
    assert solvers_named("sequential", tolerance=1e-2, **sizes) == (sequential, sequential)
    assert solvers_named("block-jacobi", tolerance=1.0, **sizes) == (BlockJacobi(8, 0.9), BlockJacobi(2, 0.01))
    assert solvers_named("sliding", tolerance=1.0, **sizes) == (SlidingWindow(8, 0.9), SlidingWindow(2, 0.01))
    assert solvers_named("published", tolerance=1e-2, **sizes) == (PublishedJacobi(32, 128), PublishedJacobi(32, 128))
    capped = solvers_named("sliding", tolerance=0.1, block_size=8, shallow_block_size=1, max_sweeps=3)
    assert capped == (SlidingWindow(8, 0.1, 3), sequential)
    with pytest.raises(UsageError, match="'gauss-seidel': choose sliding, block-jacobi, sequential, published"):
        solvers_named("gauss-seidel", tolerance=1e-2, **sizes)


@pytest.mark.parametrize("frames_at_once", [1, 2, None])
def test_pieces_have_the_requested_number_of_frames_and_join_to_the_whole_sample(frames_at_once: int | None):
    flow, given = tiny_flow(), noise(1, seed=1)
    whole, _ = sample(flow, noise(4), random_text(2), prefix=given, solver=EXACT)
    came = list(pieces(flow, plan(noise(4), random_text(2), prefix=given, solver=EXACT), frames_at_once))
    assert [piece.shape[1] for piece in came] == [1, *{1: [1, 1, 1], 2: [2, 1], None: [3]}[frames_at_once]]
    assert_same(torch.cat(came, dim=1), whole)


def test_a_flow_in_float64_accepts_noise_in_float32():
    x, _ = sample(tiny_flow(), noise(2).float(), random_text(2))
    assert x.dtype == torch.float64


@pytest.mark.parametrize("num_given", [3, 4])
def test_a_prefix_without_frames_to_generate_is_refused(num_given: int):
    with pytest.raises(UsageError, match=f"the input has {num_given} latent frames and the video only 3"):
        sample(tiny_flow(), noise(3), random_text(2), prefix=noise(num_given))


@pytest.mark.parametrize(("size", "context"), [(3, 3), (3, 16), (3, 0), (3, -1), (1, 1)])
def test_a_context_that_does_not_fit_its_window_is_refused(size: int, context: int):
    with pytest.raises(UsageError, match="context"):
        RollingWindow(size, context)


@pytest.mark.parametrize(
    "solver", [sequential, BlockJacobi(), SlidingWindow()], ids=["sequential", "jacobi", "sliding"]
)
@pytest.mark.parametrize("block", [0, 2], ids=["shallow", "deep"])
def test_nan_in_the_weights_is_an_error(block: int, solver):
    flow = tiny_flow()
    flow.blocks[block].proj_out.bias[0] = torch.nan
    with pytest.raises(StarflowError, match="NaN"):
        sample(flow, noise(2), random_text(2), solver=solver)


def test_nan_in_the_noise_is_an_error():
    z = noise(2)
    z[0, 1, 0, 0, 0] = torch.nan
    with pytest.raises(StarflowError, match="NaN"):
        sample(tiny_flow(), z, random_text(2))


@pytest.mark.parametrize("window", [RollingWindow(), RollingWindow(3, 2)], ids=["whole", "rolling"])
def test_frames_after_changed_captions_are_a_continuation_under_the_new_ones(window: RollingWindow):
    flow, text, other, z = tiny_flow(), random_text(2), random_text(2) + 1, noise(6)
    steered = plan(z, text, rolling_window=window, solver=EXACT)

    def change(index: int, _: Tensor) -> None:
        if index == 1:
            steered.text = other

    x = torch.cat(list(pieces(flow, steered, on_frame=change)), dim=1)
    plain, _ = sample(flow, z, text, rolling_window=window, solver=EXACT)
    assert_same(x[:, :2], plain[:, :2])
    continued, _ = sample(flow, z, other, prefix=plain[:, :2], rolling_window=window, solver=EXACT)
    assert_same(x, continued)
    assert (x[:, 2:] - plain[:, 2:]).abs().max() > 0.01
