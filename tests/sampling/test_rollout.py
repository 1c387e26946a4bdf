"""Frames one by one, in float64."""

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, TEXT_TOKENS, VIDEO, randn, random_text, randomize, tiny_flow
from plans import sample
from starflow.flow.actions import ActionSpace
from starflow.flow.loss import negative_log_likelihood
from starflow.flow.model import StarFlow
from starflow.sampling.rollout import Caption, Rollout
from starflow.sampling.sampler import RollingWindow
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import BlockJacobi, Solver, Solvers, sequential

_, HEIGHT, WIDTH = VIDEO
WINDOW = RollingWindow(4, 2)
SPACE = ActionSpace(sizes=(3,))
SOLVERS = {"sequential": sequential, "jacobi": BlockJacobi(4, 1e-12), "sliding": SlidingWindow(4, 1e-12)}


def captions(*seeds: int) -> Caption:
    return Caption(*(random_text(1, seed=seed) for seed in seeds))


CAPTION = captions(1, 2, 3)


@pytest.fixture(scope="module")
def flow() -> StarFlow:
    flow = tiny_flow()
    flow.add_actions(SPACE)
    return randomize(flow)


def rollout_of(flow: StarFlow, solver: Solver = sequential, guidance_weight: float = 0.0) -> Rollout:
    return Rollout(flow, CAPTION, (HEIGHT, WIDTH), WINDOW, Solvers(solver, solver), guidance_weight)


def latents(num_frames: int, seed: int = 0) -> Tensor:
    return randn(1, num_frames, CHANNELS, HEIGHT, WIDTH, seed=seed)


def random_actions(num_frames: int, seed: int = 0) -> Tensor:
    choices = torch.randint(3, (1, num_frames, 1), generator=torch.Generator().manual_seed(seed))
    return SPACE.features(choices).double()


def run(rollout: Rollout, noise: Tensor, actions: Tensor) -> Tensor:
    pieces = [rollout.step(*pair) for pair in zip(noise.split(1, dim=1), actions.split(1, dim=1), strict=True)]
    return torch.cat(pieces, dim=1)


def assert_same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-8, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("guidance_weight", [0.0, 1.5])
def test_frame_by_frame_equals_all_at_once(flow: StarFlow, solver: Solver, guidance_weight: float):
    """Also after the rolling window has moved, three times."""
    noise, actions = latents(9), random_actions(9)
    want, report = sample(
        flow,
        noise,
        CAPTION.text,
        CAPTION.null_text,
        guidance_weight,
        later_text=CAPTION.later_text,
        actions=actions,
        rolling_window=WINDOW,
        solver=sequential,
    )
    rollout = rollout_of(flow, solver, guidance_weight)
    assert_same(run(rollout, noise, actions), want)
    assert rollout.report.deep.tokens == report.deep.tokens
    assert rollout.report.shallow.tokens == report.shallow.tokens


@pytest.mark.parametrize("num_given", [1, 3, 4, 7])
def test_given_frames_are_continued_as_by_a_plan(flow: StarFlow, num_given: int):
    noise, actions, given = latents(9), random_actions(9), latents(num_given, seed=5)
    want, _ = sample(
        flow,
        noise,
        CAPTION.text,
        later_text=CAPTION.later_text,
        actions=actions,
        prefix=given,
        rolling_window=WINDOW,
        solver=sequential,
    )
    rollout = rollout_of(flow)
    rollout.append(given, actions[:, :num_given])
    assert_same(run(rollout, noise[:, num_given:], actions[:, num_given:]), want[:, num_given:])


@pytest.mark.parametrize("num_before", [0, 2, 4, 5])
def test_surprise_is_the_likelihood_of_the_next_frame_and_changes_nothing(flow: StarFlow, num_before: int):
    x, actions = latents(num_before + 1, seed=7), random_actions(num_before + 1)
    rollout = rollout_of(flow, guidance_weight=2.0)
    if num_before:
        rollout.append(x[:, :num_before], actions[:, :num_before])
    before, noise = rollout.copy(), latents(1, seed=8)
    surprise = rollout.surprise(x[:, num_before:], actions[:, num_before:])
    is_full = num_before >= 4
    seen = slice(num_before - 2 if is_full else 0, None)
    text = CAPTION.later_text if is_full else CAPTION.text
    want = negative_log_likelihood(flow.encode(x[:, seen], text, actions[:, seen]))[0, -1].sum(dim=0)
    assert_same(surprise, want)
    assert_same(rollout.step(noise, actions[:, :1]), before.step(noise, actions[:, :1]))


def test_a_copy_can_go_on_in_another_way_after_the_original_was_given_up(flow: StarFlow):
    noise, actions = latents(12), random_actions(12)
    for num_before in (1, 2, 4, 5):
        rollout = rollout_of(flow)
        run(rollout, noise[:, :num_before], actions[:, :num_before])
        earlier = rollout.copy()
        want = run(rollout, noise[:, num_before:], actions[:, num_before:])
        other = earlier.copy()
        run(other, noise[:, num_before:] + 1, 1 - actions[:, num_before:])
        assert torch.equal(run(earlier, noise[:, num_before:], actions[:, num_before:]), want)


def test_forks_go_on_beside_each_other(flow: StarFlow):
    noise, actions = latents(8), random_actions(8)
    want = run(rollout_of(flow), noise, actions)
    one = rollout_of(flow)
    run(one, noise[:, :2], actions[:, :2])
    other = one.fork()
    frames = []
    for index in range(2, 8):
        frames.append(one.step(noise[:, index, None], actions[:, index, None]))
        other.step(1 - noise[:, index, None], 1 - actions[:, index, None])
    assert torch.equal(torch.cat(frames, dim=1), want[:, 2:])


def test_a_new_caption_takes_effect_with_the_next_frame(flow: StarFlow):
    noise, actions, caption = latents(4), random_actions(4), captions(4, 5, 6)
    rollout = rollout_of(flow)
    first = run(rollout, noise[:, :2], actions[:, :2])
    rollout.say(caption)
    later = run(rollout, noise[:, 2:], actions[:, 2:])
    want, _ = sample(flow, noise, caption.text, actions=actions, prefix=first, solver=sequential)
    assert_same(later, want[:, 2:])
    assert (later - run(rollout_of(flow), noise, actions)[:, 2:]).abs().max() > 1e-3


def test_nothing_grows_after_the_window_is_full(flow: StarFlow):
    def size(rollout: Rollout) -> int:
        return rollout.frames.numel() + rollout.actions.numel() + rollout._gaussians.cache.buffer.numel()

    rollout, sizes = rollout_of(flow), []
    for index in range(12):
        rollout.step(latents(1, seed=index), random_actions(1))
        sizes.append(size(rollout))
    assert max(sizes[4:]) == sizes[3]
    assert rollout._gaussians.cache.capacity == TEXT_TOKENS + 4 * HEIGHT * WIDTH
