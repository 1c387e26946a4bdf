"""Offloading and quantization on the CPU: the hooks are installed, and results stay the same or nearly the same."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.utils.torch_utils import get_module_execution_device
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hardware_helpers import inverted, wide_pipeline
from starflow.errors import StarflowError, UsageError
from starflow.flow.transformer import Layer
from starflow.hardware.placement import OFFLOADS, place
from starflow.hardware.quantization import QUANTIZATIONS, check_quantizable, quantization_config
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import LATENT_CHANNELS, TEXT_WIDTH, tiny_pipeline


def frames(pipeline: StarFlowPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a red circle", generator=torch.Generator().manual_seed(0), output_type="pt").frames


@pytest.fixture
def pipeline() -> StarFlowPipeline:
    return tiny_pipeline()


def test_a_model_that_was_stored_in_bfloat16_keeps_its_matrices_in_it_on_a_cpu(pipeline: StarFlowPipeline):
    pipeline.to(torch.bfloat16).to(torch.float32)
    want = frames(pipeline)
    place(pipeline, "cpu")
    for part in (pipeline.flow.deep, pipeline.denoiser):
        assert part.transformer.layers[0].attention.qkv.weight.dtype == torch.bfloat16
    assert (pipeline.dtype, pipeline.flow.dtype, pipeline.denoiser.dtype) == (torch.float32,) * 3
    assert torch.equal(frames(pipeline), want)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloading_does_not_change_the_video(offload: str, pipeline: StarFlowPipeline):
    want = frames(pipeline)
    placed = place(pipeline, "cpu", offload)
    assert placed is pipeline
    for _ in range(2):  # the second video checks that everything is in place again
        torch.testing.assert_close(frames(pipeline), want, atol=1e-5, rtol=0)
    assert {get_module_execution_device(part).type for part in (pipeline.vae, pipeline.flow)} == {"cpu"}


def test_group_offloading_hooks_layers_matrices_and_convolutions(pipeline: StarFlowPipeline):
    place(pipeline, "cpu", "group")
    hooked = {name for name, module in pipeline.flow.named_modules() if hasattr(module, "_diffusers_hook")}
    layers = {name for name, module in pipeline.flow.named_modules() if isinstance(module, Layer)}
    assert layers <= hooked
    assert not any(name.endswith(("proj_in", "proj_out", "proj_text")) for name in hooked)
    for part in (pipeline.vae, pipeline.text_encoder):
        leaves = [module for module in part.modules() if isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding)]
        assert all(hasattr(module, "_diffusers_hook") for module in leaves)


class OnlyOnloaded(TorchDispatchMode):
    """Refuses operations on the offloaded parameters of a pipeline while they are not on the device."""

    def __init__(self, pipeline: StarFlowPipeline, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        hooks = [
            module._diffusers_hook
            for part in pipeline.components.values()
            if isinstance(part, nn.Module)
            for module in part.modules()
            if hasattr(module, "_diffusers_hook")
        ]
        groups = [hook.group for registry in hooks if (hook := registry.get_hook("group_offloading"))]
        self.offloaded = {id(parameter) for group in groups for parameter in _parameters(group)}
        self.onloaded: set[int] = set()
        self.num_used = 0
        monkeypatch.setattr(ModuleGroup, "onload_", lambda group: self.onloaded.update(map(id, _parameters(group))))
        monkeypatch.setattr(
            ModuleGroup, "offload_", lambda group: self.onloaded.difference_update(map(id, _parameters(group)))
        )

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        for used in map(id, tree_leaves((args, kwargs or {}))):
            if used in self.offloaded:
                self.num_used += 1
                assert used in self.onloaded, f"{operation} uses a weight that is not on the device"
        return operation(*args, **(kwargs or {}))


def _parameters(group: ModuleGroup) -> list[nn.Parameter]:
    return [*group.parameters, *(parameter for module in group.modules for parameter in module.parameters())]


def test_group_offloading_loads_every_weight_before_it_is_used(
    pipeline: StarFlowPipeline, monkeypatch: pytest.MonkeyPatch
):
    place(pipeline, "cpu", "group")
    with OnlyOnloaded(pipeline, monkeypatch) as mode:
        frames(pipeline)
    transformers = [*pipeline.flow.deep.transformer.layers.parameters(), *pipeline.denoiser.transformer.parameters()]
    assert {id(parameter) for parameter in transformers} <= mode.offloaded
    assert mode.num_used > len(mode.offloaded)
    assert not mode.onloaded


class Recorder:
    """A stand-in for diffusers' offloading hook that records the modules it is asked to load."""

    def __init__(self, log: list[str], name: str):
        self.log, self.name = log, name

    def pre_forward(self, module: nn.Module) -> None:
        self.log.append(self.name)


def test_every_stage_loads_its_model_before_use(pipeline: StarFlowPipeline):
    log: list[str] = []
    for name in ("flow", "denoiser", "vae"):
        getattr(pipeline, name)._hf_hook = Recorder(log, name)
    stream = pipeline.stream("a red circle", output_type="pt", frames_at_once=3)
    list(stream)
    order = [name for index, name in enumerate(log) if index == 0 or log[index - 1] != name]
    assert order[:3] == ["flow", "denoiser", "vae"]
    assert set(log) == {"flow", "denoiser", "vae"}
    last_flow = len(log) - 1 - log[::-1].index("flow")
    assert "vae" not in log[:last_flow]  # so the flow is no longer needed when decoding starts


def test_group_offloading_without_a_denoiser_is_refused(pipeline: StarFlowPipeline):
    pipeline.register_modules(denoiser=None)
    with pytest.raises(UsageError, match=r"no denoiser.*choose --offload model"):
        place(pipeline, "cpu", "group")
    place(pipeline, "cpu", "model")
    assert frames(pipeline).isfinite().all()


def test_unknown_names_and_devices_are_refused(pipeline: StarFlowPipeline):
    with pytest.raises(UsageError, match="unknown offloading 'some': choose none, model, group"):
        place(pipeline, "cpu", "some")
    with pytest.raises(UsageError, match="unknown quantization 'int2': choose int8, fp8, int4"):
        quantization_config("int2")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="cannot use the device cuda"):
            place(pipeline, "cuda")


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_quantization_without_torchao_names_the_extra_to_install(quantize: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)  # as if it were not installed
    with pytest.raises(StarflowError, match=r"pip install .*\[quantize\]"):
        quantization_config(quantize)


@pytest.mark.parametrize(("quantize", "error"), [("int8", 0.5), ("fp8", 0.2)])
def test_a_quantized_model_gives_nearly_the_same_sample(quantize: str, error: float, tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path)
    plain = StarFlowPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    config = quantization_config(quantize)
    narrow = StarFlowPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=config)
    layer = narrow.flow.deep.transformer.layers[0]
    assert type(layer.mlp.up.weight.data) is not torch.Tensor
    assert type(narrow.flow.deep.proj_out.weight.data) is torch.Tensor
    latents = []
    for pipeline in (plain, narrow):
        pipeline.set_progress_bar_config(disable=True)
        output = pipeline("a red circle", generator=torch.Generator().manual_seed(0), output_type="latent")
        assert output.report.deep.converged
        latents.append(output.frames.float())
    assert 0 < (latents[0] - latents[1]).std() / latents[0].std() < error


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_quantized_flows_stay_invertible(quantize: str, tmp_path: Path):
    wide_pipeline().save_pretrained(tmp_path)
    plain = StarFlowPipeline.from_pretrained(tmp_path).flow
    flow = StarFlowPipeline.from_pretrained(tmp_path, quantization_config=quantization_config(quantize)).flow
    torch.manual_seed(0)
    x, error = inverted(flow, 1e-3)
    assert error < 1.1e-3
    torch.manual_seed(0)
    with torch.no_grad():
        noise, text = torch.randn(2, 3, LATENT_CHANNELS, 2, 2), torch.randn(2, 5, TEXT_WIDTH)  # those of `inverted`
        assert (plain.encode(x, text).z - noise).abs().max() > 2e-3  # the quantized flow is another model


def test_int4_needs_wide_layers_and_a_denoiser():
    wide, narrow = wide_pipeline(), tiny_pipeline()
    check_quantizable(wide.flow, wide.denoiser, "int4")
    check_quantizable(narrow.flow, None, "int8")
    with pytest.raises(UsageError, match="multiples of 128"):
        check_quantizable(narrow.flow, narrow.denoiser, "int4")
    with pytest.raises(UsageError, match="no denoiser"):
        check_quantizable(wide.flow, None, "int4")


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_nan_in_weights_to_quantize_is_an_error(quantize: str, tmp_path: Path):
    pipeline = wide_pipeline()
    pipeline.flow.deep.transformer.layers[0].mlp.up.weight.data[3, 5] = float("nan")
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(StarflowError, match=r"mlp\.up\.weight of the model's flow is not finite"):
        StarFlowPipeline.from_pretrained(
            tmp_path, dtype=torch.bfloat16, quantization_config=quantization_config(quantize)
        )


def test_a_float8_cache_gives_nearly_the_same_video(pipeline: StarFlowPipeline):
    want = frames(pipeline)
    pipeline.flow.cache_dtype = torch.float8_e4m3fn
    got = frames(pipeline)
    assert not torch.equal(got, want)
    assert (got - want).std() / want.std() < 0.3
