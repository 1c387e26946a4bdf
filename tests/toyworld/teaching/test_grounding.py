import pytest
import torch

from clip_sources import ClipList
from invertible_maps import randomize
from starflow.data.buckets import Bucket
from starflow.data.tasks import Batch
from starflow.errors import UsageError
from starflow.flow.model import StarFlow
from starflow.toyworld.source import Toyworld
from starflow.toyworld.teaching.cells import ground
from starflow.toyworld.teaching.grounding import GroundingHead, GroundingLoss, states_halfway
from starflow.train.auxiliary import build_auxiliary_loss

T, H, W, M = 3, 2, 3, 5


@pytest.fixture(params=[1, 2])
def flow(request: pytest.FixtureRequest) -> StarFlow:
    """A flow whose deep block has four layers and reads a frame in raster order or backwards."""
    return randomize(StarFlow(4, [1] * request.param, 4, 20, 20, head_dim=20, text_width=16))


def test_states_equal_those_of_the_deep_block_after_reading_each_token(flow: StarFlow):
    u, text = torch.randn(2, T, H, W, 4, dtype=torch.float64), torch.randn(2, M, 16, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    flow.deep.transformer.layers[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    index = flow.num_blocks - 1
    flow.run_block(index, u, text)
    whole = seen[0][:, M:]
    for frame in range(T - 1):
        # a token is an input at the position after its own
        after = whole[:, frame * H * W + 1 : (frame + 1) * H * W + 1]
        expected = after.flip(1) if flow.reverses(index) else after
        torch.testing.assert_close(states_halfway(flow, u, text, frame), expected)
    assert states_halfway(flow, u, text, T - 1).shape == (2, H * W, 20)


def test_the_state_of_a_token_depends_only_on_it_and_earlier_tokens(flow: StarFlow):
    u, text = torch.randn(1, 1, H, W, 4, dtype=torch.float64), torch.randn(1, M, 16, dtype=torch.float64)
    before = states_halfway(flow, u, text, 0)
    u[0, 0, 1, 1] += 1
    changed = (states_halfway(flow, u, text, 0) - before).abs().sum(dim=-1)[0] > 0
    order = flow.to_tokens(torch.arange(H * W).view(1, 1, H, W, 1), flow.num_blocks - 1).flatten().tolist()
    assert [bool(changed[token]) for token in order] == [False] * order.index(W + 1) + [True] * (
        H * W - order.index(W + 1)
    )


def test_unlabelled_cells_have_no_loss():
    torch.manual_seed(0)
    head = GroundingHead(8)
    cells = torch.full((2, 3, H, W), -1, dtype=torch.int8)
    states = torch.randn(2, H * W, 8)
    assert head(states, cells).tolist() == [0, 0]
    cells[1, 2, 0, 1] = 4
    expected = -head.heads[2](torch.nn.functional.layer_norm(states, (8,)))[1, 1].log_softmax(dim=0)[4]
    torch.testing.assert_close(head(states, cells), torch.stack([torch.zeros(()), expected]))


SOURCE = Toyworld(8, edited=1.0)


def batch_of(task: str, num_given: int = 0, dropped: tuple[bool, ...] = (False, False)) -> Batch:
    return Batch(
        task, Bucket(1, 8, 8), torch.randn(2, num_given + 1, 4, 4, 4), ["", ""], [3, 5], [], num_given, list(dropped)
    )


@pytest.mark.parametrize(("task", "num_given"), [("text_to_video", 0), ("video_to_video", 2), ("last", 1)])
def test_cells_are_labelled_from_the_first_generated_frame(flow: StarFlow, task: str, num_given: int):
    cells = GroundingLoss(flow, SOURCE).cells(batch_of(task, num_given))
    for got, index in zip(cells, (3, 5), strict=True):
        scene = SOURCE.edited_scene(index)[1] if task == "video_to_video" else SOURCE.scene(index)
        assert torch.equal(got, torch.from_numpy(ground(scene, 4, 4)))
    assert (cells >= 0).any()


def test_attributes_that_the_caption_does_not_state_are_unlabelled(flow: StarFlow):
    loss = GroundingLoss(flow, SOURCE)
    whole = loss.cells(batch_of("text_to_video"))
    image = loss.cells(batch_of("image"))
    assert torch.equal(image[:, :2], whole[:, :2]) and (image[:, 2] == -1).all()
    dropped = loss.cells(batch_of("text_to_video", dropped=(True, False)))
    assert (dropped[0] == -1).all() and torch.equal(dropped[1], whole[1])
    assert (loss.cells(batch_of("extend")) == -1).all()


@pytest.mark.parametrize(("task", "num_given"), [("text_to_video", 0), ("video_to_video", 2)])
def test_the_loss_is_that_of_the_head_on_the_states_of_the_flow(flow: StarFlow, task: str, num_given: int):
    loss = build_auxiliary_loss("toyworld-grounding", flow.requires_grad_(), SOURCE)
    loss.module.double()
    batch, text = batch_of(task, num_given), torch.randn(2, M, 16, dtype=torch.float64, requires_grad=True)
    noisy = torch.randn(2, num_given + 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    got = loss(batch, noisy, text)
    states = states_halfway(flow, flow.encode_shallow(noisy), text, num_given)
    torch.testing.assert_close(got, loss.module(states, loss.cells(batch)))
    got.sum().backward()
    assert noisy.grad is None
    assert text.grad is not None and text.grad.abs().sum() > 0
    assert flow.deep.proj_in.weight.grad is not None
    assert all(parameter.grad is None for block in flow.shallow for parameter in block.parameters())


def test_a_source_other_than_toyworld_is_refused(flow: StarFlow):
    with pytest.raises(UsageError, match="needs the clips of toyworld"):
        build_auxiliary_loss("toyworld-grounding", flow, ClipList([]))
