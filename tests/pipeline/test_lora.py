"""LoRA adapters of a pipeline, with tiny random weights."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters import ALPHA, RANK, adapter_tensors, add_random_adapter, save_random_adapter
from starflow.errors import StarflowError, UsageError
from starflow.flow.loss import negative_log_likelihood
from starflow.flow.model import StarFlow
from starflow.flow.narrow import NarrowLinear
from starflow.hardware.placement import place
from starflow.hardware.quantization import quantization_config
from starflow.likelihood.score import log_likelihood
from starflow.pipeline import lora
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline

FILE = "pytorch_lora_weights.safetensors"
LAYER = "flow.blocks.2.transformer.layers.0.attention.qkv"


@pytest.fixture(scope="module")
def base() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline()


@pytest.fixture
def pipeline(base: StarFlowPipeline) -> StarFlowPipeline:
    return copy.deepcopy(base)


@pytest.fixture(scope="module")
def folder(base: StarFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(base, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def other(base: StarFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(base, tmp_path_factory.mktemp("other"), seed=2)


def encode(pipeline: StarFlowPipeline) -> torch.Tensor:
    """The noise of fixed latents, which depends on all layers."""
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(2, 3, 4, 2, 2, generator=generator), torch.randn(2, 5, 16, generator=generator)
    with torch.no_grad():
        return pipeline.flow(x.to(pipeline.flow.dtype), text.to(pipeline.flow.dtype)).z


def latents(pipeline: StarFlowPipeline, **options: Any) -> torch.Tensor:
    options = {"generator": torch.Generator().manual_seed(0), "tolerance": 1e-6, "guidance_scale": 1.0} | options
    return pipeline(CAPTIONS[0], output_type="latent", **options).frames


def by_hand(base: StarFlowPipeline, *adapters: tuple[Path, float]) -> StarFlowPipeline:
    """The base with `scale · alpha / rank · B·A` added to its matrices."""
    pipeline = copy.deepcopy(base)
    weights = pipeline.flow.state_dict()
    for folder, scale in adapters:
        tensors = load_file(folder / FILE)
        for key in tensors:
            if key.endswith("lora_A.weight"):
                layer = key.removesuffix(".lora_A.weight")
                update = tensors[f"{layer}.lora_B.weight"] @ tensors[key]
                weights[f"{layer.removeprefix('flow.')}.weight"] += scale * ALPHA / RANK * update
    return pipeline


# --- what an adapter does --------------------------------------------------------------------------------------------


def test_an_adapter_adds_its_scaled_product_to_the_weights(base, pipeline, folder: Path):
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(encode(pipeline), encode(by_hand(base, (folder, 1))), atol=1e-5, rtol=0)
    assert not torch.allclose(encode(pipeline), encode(base), atol=0.1)


def test_adapters_add_up_with_their_weights(base, pipeline, folder: Path, other: Path):
    pipeline.load_lora_weights(folder, adapter_name="one")
    pipeline.load_lora_weights(other, adapter_name="two")
    assert pipeline.get_list_adapters() == {"flow": ["one", "two"]}
    assert pipeline.get_active_adapters() == ["two"]
    pipeline.set_adapters(["one", "two"], [0.5, -0.25])
    wanted = encode(by_hand(base, (folder, 0.5), (other, -0.25)))
    torch.testing.assert_close(encode(pipeline), wanted, atol=1e-5, rtol=0)
    pipeline.delete_adapters("two")
    pipeline.set_adapters("one")
    torch.testing.assert_close(encode(pipeline), encode(by_hand(base, (folder, 1))), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_fused_equals_unfused_and_can_be_undone(base, pipeline, folder: Path, dtype: torch.dtype, tolerance: float):
    pipeline.to(dtype)
    plain = encode(pipeline)
    pipeline.load_lora_weights(folder)
    pipeline.set_adapters("default_0", 0.7)
    adapted = encode(pipeline)
    assert not torch.allclose(adapted, plain, atol=0.1)
    pipeline.fuse_lora()
    torch.testing.assert_close(encode(pipeline), adapted, atol=tolerance, rtol=0)
    pipeline.unfuse_lora()
    torch.testing.assert_close(encode(pipeline), adapted, atol=tolerance, rtol=0)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(encode(pipeline), plain, atol=tolerance, rtol=0)


@pytest.mark.parametrize("load_first", [True, False])
def test_adapters_work_with_matrices_in_bfloat16(pipeline, folder: Path, load_first: bool):
    pipeline.to(torch.bfloat16).to(torch.float32)
    wide = copy.deepcopy(pipeline)
    wide.load_lora_weights(folder)
    if load_first:
        pipeline.load_lora_weights(folder)
    place(pipeline, "cpu")
    if not load_first:
        pipeline.load_lora_weights(folder)
    assert sum(isinstance(module, NarrowLinear) for module in pipeline.flow.modules()) >= 4
    adapted = encode(pipeline)
    assert torch.equal(adapted, encode(wide))
    pipeline.fuse_lora()
    torch.testing.assert_close(encode(pipeline), adapted, atol=1e-5, rtol=0)


def test_adapters_can_be_switched_off_and_unloaded(base, pipeline, folder: Path):
    names = list(pipeline.flow.state_dict())
    pipeline.load_lora_weights(folder)
    adapted = encode(pipeline)
    pipeline.disable_lora()
    assert torch.equal(encode(pipeline), encode(base))
    pipeline.enable_lora()
    assert torch.equal(encode(pipeline), adapted)
    pipeline.unload_lora_weights()
    assert torch.equal(encode(pipeline), encode(base))
    assert list(pipeline.flow.state_dict()) == names


def test_dropout_of_training_is_off(base, pipeline, tmp_path: Path):
    pipeline.flow.train()
    pipeline.load_lora_weights(save_random_adapter(base, tmp_path, lora_dropout=0.5))
    assert torch.equal(encode(pipeline), encode(pipeline))


def test_fused_weights_are_saved_as_a_model(pipeline, folder: Path, tmp_path: Path):
    pipeline.load_lora_weights(folder)
    adapted = encode(pipeline)
    with pytest.raises(UsageError, match="call unload_lora_weights"):
        pipeline.save_pretrained(tmp_path / "model")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(encode(StarFlowPipeline.from_pretrained(tmp_path / "model")), adapted, atol=1e-5, rtol=0)


# --- the rest of the pipeline ----------------------------------------------------------------------------------------


def test_samples_and_streams_are_those_of_the_fused_weights(pipeline, folder: Path):
    pipeline.load_lora_weights(folder)
    pipeline.set_adapters("default_0", 0.3)
    sampled = latents(pipeline)
    exact = latents(pipeline, sampler="sequential")  # token by token with the cache
    torch.testing.assert_close(sampled, exact, atol=1e-3, rtol=0)
    frames = pipeline(CAPTIONS[0], generator=torch.Generator().manual_seed(0), output_type="pt").frames[0]
    streamed = pipeline.stream(CAPTIONS[0], generator=torch.Generator().manual_seed(0), output_type="pt")
    torch.testing.assert_close(torch.stack([each.image for each in streamed]), frames, atol=1e-3, rtol=0)
    pipeline.fuse_lora()
    torch.testing.assert_close(latents(pipeline), sampled, atol=1e-3, rtol=0)


@pytest.mark.parametrize("offload", ["model", "group"])
@pytest.mark.parametrize("load_first", [True, False])
def test_offloading_does_not_change_the_result(base, pipeline, folder: Path, offload: str, load_first: bool):
    pipeline.load_lora_weights(folder)
    wanted = latents(pipeline)
    offloaded = copy.deepcopy(base)
    if load_first:
        offloaded.load_lora_weights(folder)
    place(offloaded, "cpu", offload)
    if not load_first and offload == "group":
        with pytest.raises(UsageError, match="before the layers are offloaded"):
            offloaded.load_lora_weights(folder)
        return
    if not load_first:
        offloaded.load_lora_weights(folder)
    torch.testing.assert_close(latents(offloaded), wanted, atol=1e-4, rtol=0)


def test_a_compiled_layer_has_the_adapter(pipeline, folder: Path):
    pipeline.load_lora_weights(folder)
    plain = encode(pipeline)
    for layer in pipeline.flow.deep.transformer.layers:
        layer.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(encode(pipeline), plain, atol=1e-5, rtol=0)


def test_the_score_and_the_likelihood_are_those_of_the_adapted_model(base, pipeline, folder: Path):
    pipeline.load_lora_weights(folder)
    clip = torch.rand(9, 32, 32, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    mine, wanted = (log_likelihood(each, clip, CAPTIONS[:1])[0] for each in (pipeline, by_hand(base, (folder, 1))))
    assert mine.nats_per_dim == pytest.approx(wanted.nats_per_dim, rel=1e-5)
    x = torch.randn(1, 3, 4, 2, 2).requires_grad_()
    negative_log_likelihood(pipeline.flow(x, torch.zeros(1, 5, 16))).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_quantized_base_takes_an_adapter_but_cannot_be_fused(base, folder: Path, tmp_path: Path):
    pytest.importorskip("torchao")
    base.save_pretrained(tmp_path)
    pipeline = StarFlowPipeline.from_pretrained(tmp_path, quantization_config=quantization_config("int8"))
    plain = encode(pipeline)
    pipeline.load_lora_weights(folder)
    wanted, error = encode(by_hand(base, (folder, 1))), (plain - encode(base)).abs().max()
    torch.testing.assert_close(encode(pipeline), wanted, atol=10 * error, rtol=0)
    assert (wanted - plain).abs().max() > 20 * error
    with pytest.raises(UsageError, match="quantized"):
        pipeline.fuse_lora()


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_a_folder_and_tensors_are_the_same(base, pipeline, folder: Path, tmp_path: Path):
    wanted = encode(by_hand(base, (folder, 1)))
    (tmp_path / "style.safetensors").write_bytes((folder / FILE).read_bytes())
    for source, options in ((folder / FILE, {}), (str(folder), {}), (tmp_path, {"weight_name": "style.safetensors"})):
        pipeline.load_lora_weights(source, **options)
        torch.testing.assert_close(encode(pipeline), wanted, atol=1e-5, rtol=0)
        pipeline.unload_lora_weights()
    tensors = load_file(folder / FILE)  # without alpha
    pipeline.load_lora_weights(tensors)
    wanted = encode(by_hand(base, (folder, RANK / ALPHA)))
    torch.testing.assert_close(encode(pipeline), wanted, atol=1e-5, rtol=0)


def test_a_hub_id_is_looked_up_with_the_options_of_the_hub(pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def hub_file(*arguments: str, **options: Any) -> Path:
        asked.append((*arguments, options))
        return folder / FILE

    monkeypatch.setattr(lora, "hub_file", hub_file)
    pipeline.load_lora_weights("owner/style", revision="v1", local_files_only=True)
    assert asked == [("owner/style", FILE, {"revision": "v1", "local_files_only": True})]
    assert pipeline.get_active_adapters() == ["default_0"]


def test_without_a_network_the_error_says_what_to_do(pipeline):
    with pytest.raises(StarflowError, match=r"no file or folder owner/style.*hf download owner/style"):
        pipeline.load_lora_weights("owner/style", local_files_only=True)


def test_the_file_has_the_key_names_of_diffusers_and_the_scale(folder: Path):
    keys = set(load_file(folder / FILE))
    assert {f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"} < keys
    with (folder / FILE).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert json.loads(header["__metadata__"]["lora_adapter_metadata"])["flow.lora_alpha"] == ALPHA


# --- mistakes --------------------------------------------------------------------------------------------------------


def broken(folder: Path, change: str) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / FILE)
    a, b = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
    if change == "unknown":
        tensors["transformer.blocks.9.lora_A.weight"] = tensors.pop(a)
    elif change == "half":
        del tensors[b]
    elif change == "ranks":
        tensors[a] = torch.zeros(RANK + 1, 20)
    elif change == "shape":
        tensors[a], tensors[b] = torch.zeros(RANK, 4096), torch.zeros(12288, RANK)
    elif change == "nan":
        tensors[a][0, 0] = torch.nan
    else:
        tensors = {}
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unknown", r"it lacks .*qkv\.lora_A\.weight; unknown key transformer\.blocks\.9\.lora_A\.weight"),
        ("half", r"it lacks flow\.blocks\.2.*lora_B\.weight"),
        ("ranks", r"qkv has matrices of the shapes \(3, 20\) and \(60, 2\), which do not multiply"),
        ("shape", r"qkv maps 4096 features to 12288 in the LoRA, but 20 to 60 in the model"),
        ("nan", "qkv has values that are not finite"),
        ("empty", "it is empty"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error_that_names_the_problems(
    base, pipeline, folder: Path, change: str, message: str
):
    with pytest.raises(StarflowError, match=message) as error:
        pipeline.load_lora_weights(broken(folder, change))
    assert "\n" not in str(error.value)
    assert torch.equal(encode(pipeline), encode(base))


def test_an_adapter_of_another_model_is_an_error_of_bounded_length(pipeline):
    wide = StarFlow(4, [1, 1], 3, 40, 40, 20, 16, position_length=2)
    tensors = adapter_tensors(add_random_adapter(wide))
    with pytest.raises(StarflowError, match=r"maps 40 features to 120 in the LoRA, but 20 to 60.* more such problems"):
        pipeline.load_lora_weights(tensors)


def test_a_failed_load_leaves_the_pipeline_usable(base, pipeline, folder: Path, tmp_path: Path):
    tensors = load_file(folder / FILE)
    save_file(tensors, tmp_path / FILE, {"lora_adapter_metadata": '{"flow.r": 3, "flow.no_such_argument": 1}'})
    with pytest.raises(StarflowError, match="cannot load the LoRA"):
        pipeline.load_lora_weights(tmp_path)
    assert torch.equal(encode(pipeline), encode(base))
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(encode(pipeline), encode(by_hand(base, (folder, 1))), atol=1e-5, rtol=0)


def test_other_mistakes_are_one_line(pipeline, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lora.bin").write_bytes(b"\x80\x02}q\x00.")
    for source, message in ((tmp_path / "lora.bin", "is not a safetensors file"), (tmp_path / "no", "no LoRA at")):
        with pytest.raises(StarflowError, match=message):
            pipeline.load_lora_weights(source)
    with pytest.raises(TypeError, match="no option weightname"):
        pipeline.load_lora_weights(folder, weightname="x")
    with pytest.raises(UsageError, match="no adapter to fuse"):
        pipeline.fuse_lora()
    pipeline.load_lora_weights(folder, adapter_name="style")
    with pytest.raises(UsageError, match="there is an adapter called 'style'"):
        pipeline.load_lora_weights(folder, adapter_name="style")
    with pytest.raises(ValueError, match="styl"):
        pipeline.set_adapters("styl")
    monkeypatch.setattr(lora, "USE_PEFT_BACKEND", False)
    with pytest.raises(StarflowError, match=r"pip install .*\[train\]"):
        pipeline.load_lora_weights(folder)
