import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import T5EncoderModel

from starflow.encoders.text import tiny_text_encoder
from starflow.errors import UsageError
from starflow.flow.loss import flow_loss
from starflow.flow.model import StarFlow
from starflow.hardware.live_bytes import LiveBytes
from starflow.train.config import LoopConfig, ParallelConfig
from starflow.train.loop import check_division
from starflow.train.parallelize import build_mesh, parallelize
from tiny_run import loop_config

LOOP = LoopConfig(num_steps=1, decay_steps=0)
TEXT_WIDTH = 16


def flow(kind: str) -> StarFlow:
    torch.manual_seed(0)
    model = StarFlow(4, [1], 4, 40, 40, 20, TEXT_WIDTH, position_length=4)
    torch.nn.init.normal_(model.deep.proj_out.weight, std=0.1)
    parallelize(model, LOOP, ParallelConfig(activation_checkpointing=kind))
    return model


def gradients(model: StarFlow) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 3, 4, 4, 4, generator=generator), torch.randn(2, 5, TEXT_WIDTH, generator=generator)
    flow_loss(model(x, text)).backward()
    return [parameter.grad for parameter in model.parameters()]


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_recomputed_activations_give_the_same_gradients(kind: str):
    plain, recomputed = flow("none"), flow(kind)
    assert list(dict(recomputed.named_parameters())) == list(dict(plain.named_parameters()))
    torch.testing.assert_close(gradients(recomputed), gradients(plain), rtol=0, atol=0)


def test_checkpointing_saves_memory_and_the_selective_kind_repeats_no_product():
    memory, products = {}, {}
    for kind in ("none", "selective", "full"):
        model = flow(kind)
        latents, text = torch.zeros(2, 3, 4, 8, 8), torch.zeros(2, 5, TEXT_WIDTH)
        with LiveBytes() as live:
            kept = model(latents, text)
            memory[kind] = live.now
            del kept
        loss = flow_loss(model(latents, text))
        with Products() as counter:
            loss.backward()
        products[kind] = counter.count
    assert memory["full"] < 0.4 * memory["none"]
    assert memory["full"] < memory["selective"] < 0.75 * memory["none"]
    assert products["selective"] == products["none"] < products["full"]


def test_layers_of_a_text_encoder_are_recomputed_too():
    def encoded(kind: str) -> tuple[T5EncoderModel, torch.Tensor]:
        torch.manual_seed(0)
        encoder = tiny_text_encoder(300, 16, 2)
        parallelize(encoder, LOOP, ParallelConfig(activation_checkpointing=kind))
        tokens = torch.arange(6).view(1, 6)
        output = encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        output.square().sum().backward()
        return encoder, output

    (plain, one), (recomputed, other) = encoded("none"), encoded("full")
    torch.testing.assert_close(other, one, rtol=0, atol=0)
    for wanted, got in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients():
    compiled = flow("none")
    parallelize(compiled, LOOP, ParallelConfig(compile=True))
    torch.testing.assert_close(gradients(compiled), gradients(flow("none")), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ParallelConfig("fdsp"), "parallel.strategy is 'fdsp': choose ddp, fsdp, hsdp"),
        (
            ParallelConfig(activation_checkpointing="all"),
            "parallel.activation_checkpointing is 'all': choose none, selective, full",
        ),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(wrong: ParallelConfig, message: str):
    with pytest.raises(UsageError, match=message):
        parallelize(torch.nn.Linear(2, 2), LOOP, wrong)


def test_a_module_without_known_layers_cannot_recompute_activations():
    with pytest.raises(UsageError, match="only transformers"):
        parallelize(torch.nn.Linear(2, 2), LOOP, ParallelConfig(activation_checkpointing="full"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation": 3}, "set loop.accumulation, which is 3, to a multiple of 2"),
        ({"accumulation": 2, "workers": 2}, "set loop.workers=1"),
    ],
)
def test_micro_steps_that_cannot_be_divided_are_an_error(monkeypatch, changes: dict[str, int], message: str):
    monkeypatch.setattr("starflow.train.loop.num_processes", lambda: 2)
    with pytest.raises(UsageError, match=message):
        check_division(loop_config(**changes))


def test_groups_that_do_not_divide_the_processes_are_an_error(monkeypatch):
    monkeypatch.setattr("starflow.train.parallelize.num_processes", lambda: 6)
    with pytest.raises(UsageError, match="6 processes cannot form groups of 4"):
        build_mesh("cpu", ParallelConfig("hsdp", 4))
