"""Properties of every invertible map, in float64."""

import pytest
import torch

from invertible_maps import CHANNELS, MAPS, VIDEO, InvertibleMap, randn, random_text, tiny_flow
from starflow.sampling.solvers import BlockJacobi, sequential

# torch computes the Jacobian of attention row by row and warns that this is slow; these models are tiny
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
SOLVERS = {"sequential": sequential, "jacobi": BlockJacobi(block_size=4, tolerance=1e-12)}


@pytest.fixture(params=MAPS, ids=[entry.name for entry in MAPS])
def invertible(request: pytest.FixtureRequest) -> InvertibleMap:
    return request.param


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_decode_inverts_encode(invertible: InvertibleMap, solver):
    x, text = invertible.random(2, seed=1), random_text(2, seed=2)
    z, _ = invertible.encode(x, text)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(invertible.decode(z, text, solver), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_encode_inverts_decode(invertible: InvertibleMap, solver):
    z, text = invertible.random(2, seed=3), random_text(2, seed=4)
    x = invertible.decode(z, text, solver)
    torch.testing.assert_close(invertible.encode(x, text)[0], z, atol=1e-9, rtol=0)


def jacobian(invertible: InvertibleMap) -> tuple[torch.Tensor, torch.Tensor]:
    """For one sample of `P` positions in raster order: `∂z/∂x` `(P, D, P, D)` and the log-determinant `(P, D)`."""
    x, text = invertible.random(1, seed=5), random_text(1, seed=6)
    log_det = invertible.encode(x, text)[1].reshape(-1, CHANNELS)
    full = torch.func.jacrev(lambda x: invertible.encode(x, text)[0])(x)
    return full.reshape(*log_det.shape, *log_det.shape), log_det


def test_log_det_equals_that_of_the_autograd_jacobian(invertible: InvertibleMap):
    full, log_det = jacobian(invertible)
    size = log_det.numel()
    sign, log_abs_det = torch.linalg.slogdet(full.reshape(size, size))
    assert sign == 1
    torch.testing.assert_close(log_abs_det, log_det.sum(), atol=1e-10, rtol=0)
    if invertible.block is not None:
        diagonal = full.reshape(size, size).diagonal().reshape(log_det.shape)
        torch.testing.assert_close(diagonal.log(), log_det, atol=1e-10, rtol=0)


def test_the_jacobian_is_triangular_in_the_order_of_the_map(invertible: InvertibleMap):
    full, _ = jacobian(invertible)
    depends = full.abs().amax(dim=(1, 3)) > 0
    assert torch.equal(depends, invertible.sees())
    if invertible.block is not None:
        own = full[range(len(full)), :, range(len(full))]
        assert torch.equal(own, torch.diag_embed(own.diagonal(dim1=1, dim2=2)))


def test_a_changed_token_changes_only_the_tokens_that_depend_on_it(invertible: InvertibleMap):
    """Even a large change does not affect tokens that do not depend on the changed one, nor its own sigma."""
    x, text = invertible.random(2, seed=7), random_text(2, seed=8)
    before = invertible.encode(x, text)
    sees = invertible.sees()
    for place in range(sees.shape[1]):
        changed = x.flatten(1, 3).clone()
        changed[:, place] += 1e3
        after = invertible.encode(changed.view_as(x), text)
        for old, new in zip(before, after, strict=True):
            difference = (old - new).flatten(1, 3).abs().amax(dim=(0, 2))
            assert (difference[~sees[:, place]] < 1e-12).all()
            later = sees[:, place].clone()
            later[place] = invertible.block is None
            assert (difference[later] > 1e-6).all()
        if invertible.block is not None:
            torch.testing.assert_close(after[1].flatten(1, 3)[:, place], before[1].flatten(1, 3)[:, place])


@pytest.mark.parametrize("num_blocks", [3, 4])
def test_a_changed_frame_changes_no_earlier_frame(num_blocks: int):
    flow, text = tiny_flow(num_blocks), random_text(2)
    x = randn(2, VIDEO[0], CHANNELS, *VIDEO[1:], seed=9)
    u, encoded = flow.encode_shallow(x), flow.encode(x, text)
    for frame in range(VIDEO[0]):
        changed = x.clone()
        changed[:, frame] += 1e3
        others = [n for n in range(VIDEO[0]) if n != frame]
        torch.testing.assert_close(flow.encode_shallow(changed)[:, others], u[:, others], atol=1e-12, rtol=0)
        after = flow.encode(changed, text)
        torch.testing.assert_close(after.z[:, :frame], encoded.z[:, :frame], atol=1e-12, rtol=0)
        torch.testing.assert_close(after.log_det[:, :frame], encoded.log_det[:, :frame], atol=1e-12, rtol=0)
        assert ((after.z - encoded.z)[:, frame:].abs().amax(dim=(0, 2, 3, 4)) > 1e-6).all()


def test_text_affects_only_the_deep_block():
    flow, x = tiny_flow(), randn(2, *VIDEO, CHANNELS)
    steps = [list(flow.run_blocks(x, random_text(2, seed=seed))) for seed in (1, 2)]
    for one, other in list(zip(*steps, strict=True))[:-1]:
        assert torch.equal(one.hidden, other.hidden)
        assert torch.equal(one.log_det, other.log_det)
    deep_one, deep_other = steps[0][-1], steps[1][-1]
    assert ((deep_one.hidden - deep_other.hidden).abs() > 1e-6).all()


def test_samples_do_not_depend_on_each_other():
    flow, x, text = tiny_flow(), randn(3, VIDEO[0], CHANNELS, *VIDEO[1:]), random_text(3)
    whole = flow.encode(x, text)
    for index in range(3):
        one = flow.encode(x[index : index + 1], text[index : index + 1])
        torch.testing.assert_close(one.z[0], whole.z[index], atol=1e-12, rtol=0)
        torch.testing.assert_close(one.log_det[0], whole.log_det[index], atol=1e-12, rtol=0)


def test_an_untrained_flow_is_the_identity():
    flow = tiny_flow()
    for block in flow.blocks:
        block.proj_out.weight.zero_()
        block.proj_out.bias.zero_()
    x = randn(2, VIDEO[0], CHANNELS, *VIDEO[1:])
    z, log_det = flow.encode(x, random_text(2))
    torch.testing.assert_close(z, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), atol=1e-12, rtol=0)


def test_latents_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expected latents"):
        tiny_flow().encode(randn(1, 2, CHANNELS + 1, 2, 2), random_text(1))
    with pytest.raises(ValueError, match="expected latents"):
        tiny_flow().encode(randn(1, CHANNELS, 2, 2), random_text(1))
