"""The bytes of live tensors, counted as code runs."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from starflow.hardware.live_bytes import LiveBytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_count_until_they_are_freed(device: str):
    weight = torch.zeros(7, device=device)  # created before the context: not counted
    with LiveBytes() as live:
        x = torch.zeros(1000, device=device)
        view = x[:10]
        assert (live.now, live.peak) == (4000, 4000)
        y = x + 1
        del x
        assert (live.now, live.peak) == (8000, 8000)
        del view
        assert live.now == 4000
        y.add_(1)
        weight.mul_(2)
        z = y.double()
        assert (live.now, live.peak) == (12000, 12000)
        del y, z
    assert (live.now, live.peak) == (0, 12000)


def test_tensors_created_outside_the_context_do_not_count():
    with LiveBytes() as live:
        inside = torch.zeros(10)
    outside = torch.zeros(1000)
    assert live.now == inside.nbytes == 40
    del outside
    assert live.peak == 40


def test_each_stage_has_its_own_peak():
    def inner():
        for size in (100, 200):
            made = torch.zeros(size)
            yield made
            del made

    def outer(items):
        for _ in items:
            work = torch.zeros(1000)
            del work
            yield

    with LiveBytes() as live:
        for _ in live.during("outer", outer(live.during("inner", inner()))):
            torch.zeros(1)
    assert live.peaks == {"inner": 400 + 800, "outer": 800 + 4000, "": 800 + 4}
    assert live.peak == 4800


def test_attention_allocates_only_its_output():
    q, k = torch.zeros(1, 2, 64, 8, device="meta"), torch.zeros(1, 2, 4096, 8, device="meta")
    with LiveBytes() as live:
        out = F.scaled_dot_product_attention(q, k, k)
    assert out.shape == q.shape
    assert live.peak == q.nbytes


def test_attention_keeps_its_inputs_for_the_backward_pass():
    x = torch.zeros(1, 2, 64, 8, device="meta", requires_grad=True)
    with LiveBytes() as live:
        out = F.scaled_dot_product_attention(2 * x, 3 * x, 4 * x)
        assert live.now == 4 * x.nbytes
        (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.shape == x.shape


def test_a_checkpointed_layer_runs_again_with_the_same_attention():
    weight = torch.zeros(8, 8, device="meta", requires_grad=True)
    x = torch.zeros(1, 2, 64, 8, device="meta")

    def layer(x: torch.Tensor) -> torch.Tensor:
        q = x @ weight
        return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    with LiveBytes() as live:
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert weight.grad is not None
    assert live.peak < 2 * 64 * 64 * 4  # the attention scores


def test_values_of_meta_tensors_read_as_one():
    x = torch.zeros(3, device="meta")
    with LiveBytes():
        assert torch.isfinite(x).all()
        assert x.max().item() == 1
    with pytest.raises(RuntimeError, match="meta"):
        x.max().item()
