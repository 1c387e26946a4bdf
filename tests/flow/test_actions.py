"""Actions: their space, and properties of a flow that takes them, in float64."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invertible_maps import CHANNELS, TEXT_WIDTH, VIDEO, randn, random_text, randomize, tiny_flow
from plans import sample
from starflow.errors import UsageError
from starflow.flow.actions import ActionSpace, latent_features
from starflow.flow.model import StarFlow
from starflow.sampling.sampler import RollingWindow
from starflow.sampling.sliding import SlidingWindow
from starflow.sampling.solvers import BlockJacobi, Solver, sequential

SPACES = {
    "discrete": ActionSpace(sizes=(3,)),
    "multi-discrete": ActionSpace(sizes=(3, 2)),
    "continuous": ActionSpace(low=(-1, 0), high=(1, 10)),
}
SOLVERS = {"sequential": sequential, "jacobi": BlockJacobi(4, 1e-12), "sliding": SlidingWindow(4, 1e-12)}
FRAMES, HEIGHT, WIDTH = VIDEO


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def space(request: pytest.FixtureRequest) -> ActionSpace:
    return request.param


def flow_with(space: ActionSpace) -> StarFlow:
    flow = tiny_flow()
    flow.add_actions(space)
    return randomize(flow)


def random_features(space: ActionSpace, num_frames: int = FRAMES, seed: int = 0, batch: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    unit = torch.rand(batch, num_frames, space.num_components, generator=rng, dtype=torch.float64)
    if space.is_discrete:
        return space.features((unit * torch.tensor(space.sizes)).floor())
    low, high = torch.tensor(space.low), torch.tensor(space.high)
    return space.features(low + unit * (high - low))


def latents(num_frames: int = FRAMES, seed: int = 3, batch: int = 2) -> Tensor:
    return randn(batch, num_frames, CHANNELS, HEIGHT, WIDTH, seed=seed)


def test_a_space_is_the_same_after_a_round_trip_through_json(space: ActionSpace):
    assert ActionSpace.from_config(space.to_config()) == space


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sizes": [3], "low": [0], "high": [1]},
        {"sizes": [0]},
        {"sizes": [2.5]},
        {"low": [0, 1], "high": [1]},
        {"low": [1], "high": [1]},
        {"low": [0], "high": [float("inf")]},
        {"buttons": [3]},
        {"sizes": [3], "names": [["", "left"]]},
        {"sizes": [3, 2], "names": [["", "left", "right"]]},
        {"low": [-1], "high": [1], "keys": [["", "KeyA", "KeyD"]]},
    ],
)
def test_a_space_that_makes_no_sense_is_refused(config):
    with pytest.raises(UsageError, match="action space"):
        ActionSpace.from_config(config)


@pytest.mark.parametrize(
    "space",
    [
        ActionSpace(
            sizes=(3, 2), names=(("", "left", "right"), ("", "shoot")), keys=(("", "KeyA", "KeyD"), ("", "Space"))
        ),
        ActionSpace(low=(-1,), high=(1,), names=(("left", "right"),)),
    ],
)
def test_names_and_keys_are_stored_and_do_not_make_another_space(space: ActionSpace):
    flow = flow_with(space)
    assert (flow.action_space.names, flow.action_space.keys) == (space.names, space.keys)
    json_config = json.loads(json.dumps(flow.action_space.to_config()))
    assert ActionSpace.from_config(json_config).names == space.names
    unnamed = ActionSpace(space.sizes, space.low, space.high)
    assert (unnamed, hash(unnamed)) == (space, hash(space))


def test_features_are_one_hot_choices_or_scaled_values():
    assert SPACES["multi-discrete"].features(torch.tensor([[2, 1]])).tolist() == [[0, 0, 1, 0, 1]]
    assert SPACES["continuous"].features(torch.tensor([[0.5, 0.0]])).tolist() == [[0.5, -1, 1]]


def test_a_latent_frame_has_the_mean_of_its_frames_features_and_the_first_none():
    features = torch.arange(9.0)[:, None]
    assert latent_features(features, 4).tolist() == [[0], [2.5], [6.5]]
    assert latent_features(features, 1).flatten().tolist() == [0, *range(1, 9)]


def test_checked_actions_have_a_dimension_for_the_components():
    assert SPACES["discrete"].check([0, 2], 2).tolist() == [[0], [2]]
    assert SPACES["continuous"].check([[0.5, 3]], 1).tolist() == [[0.5, 3]]


@pytest.mark.parametrize(
    ("name", "actions", "message"),
    [
        ("discrete", [3], "component 0 of an action must be a whole number from 0 to 2, not 3"),
        ("discrete", [-1], "from 0 to 2, not -1"),
        ("discrete", [0.5], "whole number"),
        ("discrete", [float("nan")], "NaN"),
        ("discrete", [0, 1], "shape \\(1, 1\\), not \\(2,\\)"),
        ("discrete", ["left"], "must be numbers"),
        ("multi-discrete", [[0, 2]], "component 1 of an action must be a whole number from 0 to 1, not 2"),
        ("continuous", [[0, 11]], "component 1 of an action must be in 0 to 10, not 11"),
        ("continuous", [[0, float("inf")]], "infinite"),
        ("continuous", [0.5], "shape"),
    ],
)
def test_bad_actions_are_one_clear_error(name: str, actions, message: str):
    with pytest.raises(UsageError, match=message):
        SPACES[name].check(actions, 1)


def test_absent_or_unknown_actions_leave_the_flow_as_it_is_bit_for_bit(space: ActionSpace):
    plain, flow, x, text = tiny_flow(), flow_with(space), latents(), random_text(2)
    flow.load_state_dict(plain.state_dict(), strict=False)
    assert flow.deep.proj_action.weight.abs().min() > 0
    want = plain.encode(x, text)
    for actions in (None, torch.zeros(2, FRAMES, space.num_features)):
        got = flow.encode(x, text, actions)
        assert torch.equal(got.z, want.z)
        assert torch.equal(got.log_det, want.log_det)


def test_a_new_embedding_changes_nothing(space: ActionSpace):
    flow, x, text = tiny_flow(), latents(), random_text(2)
    before = flow.encode(x, text).z
    flow.add_actions(space)
    assert torch.equal(flow.encode(x, text, random_features(space)).z, before)
    assert flow.action_space == space


def test_an_action_changes_its_own_and_later_frames_and_nothing_before(space: ActionSpace):
    flow, x, text = flow_with(space), latents(), random_text(2)
    actions = random_features(space)
    before = flow.encode(x, text, actions)
    for frame in range(FRAMES):
        changed = actions.clone()
        changed[:, frame] = 0
        after = flow.encode(x, text, changed)
        for old, new in zip(before, after, strict=True):
            difference = (old - new).abs().amax(dim=2).flatten(2)  # (B, T, H·W)
            assert difference[:, :frame].max() == 0 if frame else True
            assert difference[:, frame:].min() > 1e-9


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("num_given", [0, 1])
def test_sampling_inverts_encoding_with_actions(space: ActionSpace, solver: Solver, num_given: int):
    """The sample comes from passes with a key/value cache, the encoding from one parallel pass."""
    flow, x, text, actions = flow_with(space), latents(), random_text(2), random_features(space)
    z = flow.encode(x, text, actions).z
    got, _ = sample(flow, z, text, solver=solver, actions=actions, prefix=x[:, :num_given] if num_given else None)
    torch.testing.assert_close(got, x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_later_action_changes_no_earlier_frame_of_a_sample(space: ActionSpace, solver: Solver):
    flow, z, text, actions = flow_with(space), latents(), random_text(2), random_features(space)
    changed = actions.clone()
    changed[:, 2] = 0
    one, _ = sample(flow, z, text, solver=solver, actions=actions)
    other, _ = sample(flow, z, text, solver=solver, actions=changed)
    torch.testing.assert_close(one[:, :2], other[:, :2], atol=1e-9, rtol=0)
    assert (one[:, 2] - other[:, 2]).abs().min() > 1e-6


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_guidance_is_by_the_model_without_text_and_actions(space: ActionSpace, solver: Solver):
    flow, z, text, null_text = flow_with(space), latents(), random_text(2), random_text(2, seed=9)
    actions = random_features(space)
    guided, _ = sample(flow, z, text, null_text, 2.0, solver=solver, actions=actions)
    one, _ = sample(flow, z[:1], text[:1], null_text[:1], 2.0, solver=sequential, actions=actions[:1])
    torch.testing.assert_close(guided[:1], one, atol=1e-9, rtol=0)
    # the same text in both branches: what remains is guidance by the actions
    by_actions, _ = sample(flow, z, text, text, 2.0, solver=solver, actions=actions)
    unguided, _ = sample(flow, z, text, solver=solver, actions=actions)
    assert (by_actions - unguided).abs().max() > 1e-3


def test_actions_move_with_the_rolling_window(space: ActionSpace):
    """A window of 3 frames that keeps 1: its later frames are those of a video that begins with the kept frame."""
    flow, z, text, actions = flow_with(space), latents(5), random_text(2), random_features(space, 5)
    x, _ = sample(flow, z, text, solver=sequential, actions=actions, rolling_window=RollingWindow(3, 1))
    again, _ = sample(flow, z[:, 2:], text, solver=sequential, actions=actions[:, 2:], prefix=x[:, 2:3].clone())
    torch.testing.assert_close(x[:, 2:], again, atol=1e-9, rtol=0)


def test_actions_that_do_not_fit_are_refused(space: ActionSpace):
    x, text = latents(), random_text(2)
    with pytest.raises(ValueError, match="expected no actions"):
        tiny_flow().encode(x, text, random_features(space))
    with pytest.raises(ValueError, match="expected action features"):
        flow_with(space).encode(x, text, random_features(space, num_frames=2))


def test_a_saved_flow_keeps_its_actions(space: ActionSpace, tmp_path: Path):
    flow = flow_with(space)
    flow.save_pretrained(tmp_path)
    loaded = StarFlow.from_pretrained(tmp_path).double()
    assert loaded.action_space == space
    x, text, actions = latents(), torch.ones(2, 3, TEXT_WIDTH, dtype=torch.float64), random_features(space)
    torch.testing.assert_close(loaded.encode(x, text, actions), flow.encode(x, text, actions), atol=1e-4, rtol=0)
