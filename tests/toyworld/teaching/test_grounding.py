import pytest
import torch

from invertible_maps import randomize
from starflow.flow.model import StarFlow
from starflow.toyworld.teaching.grounding import GroundingHead, states_halfway

T, H, W, M = 3, 2, 3, 5


@pytest.fixture(params=[1, 2])
def flow(request: pytest.FixtureRequest) -> StarFlow:
    """With a deep block of four layers, in raster order or (of three blocks) backwards in a frame."""
    return randomize(StarFlow(4, [1] * request.param, 4, 20, 20, head_dim=20, text_width=16))


def test_states_are_those_of_the_deep_block_itself_once_each_token_was_read(flow: StarFlow):
    u, text = torch.randn(2, T, H, W, 4, dtype=torch.float64), torch.randn(2, M, 16, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    flow.deep.transformer.layers[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    index = flow.num_blocks - 1
    flow.run_block(index, u, text)
    whole = seen[0][:, M:]
    for frame in range(T - 1):
        after = whole[:, frame * H * W + 1 : (frame + 1) * H * W + 1]  # the token after sees this one
        expected = after.flip(1) if flow.reverses(index) else after
        torch.testing.assert_close(states_halfway(flow, u, text, frame), expected)
    assert states_halfway(flow, u, text, T - 1).shape == (2, H * W, 20)


def test_states_of_a_token_follow_from_it_and_those_before(flow: StarFlow):
    u, text = torch.randn(1, 1, H, W, 4, dtype=torch.float64), torch.randn(1, M, 16, dtype=torch.float64)
    before = states_halfway(flow, u, text, 0)
    u[0, 0, 1, 1] += 1
    changed = (states_halfway(flow, u, text, 0) - before).abs().sum(dim=-1)[0] > 0
    order = flow.to_tokens(torch.arange(H * W).view(1, 1, H, W, 1), flow.num_blocks - 1).flatten().tolist()
    assert [bool(changed[token]) for token in order] == [False] * order.index(W + 1) + [True] * (
        H * W - order.index(W + 1)
    )


def test_what_is_not_to_be_told_costs_nothing():
    torch.manual_seed(0)
    head = GroundingHead(8)
    cells = torch.full((2, 3, H, W), -1, dtype=torch.int8)
    states = torch.randn(2, H * W, 8)
    assert head(states, cells).tolist() == [0, 0]
    cells[1, 2, 0, 1] = 4
    expected = -head.heads[2](torch.nn.functional.layer_norm(states, (8,)))[1, 1].log_softmax(dim=0)[4]
    torch.testing.assert_close(head(states, cells), torch.stack([torch.zeros(()), expected]))
