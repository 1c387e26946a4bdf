"""Training of LoRA adapters, with tiny models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5EncoderModel

from starflow.config import load_config
from starflow.errors import StarflowError, UsageError
from starflow.flow.transformer import MATRICES
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.checkpoint import list_checkpoints
from starflow.train.config import LoopConfig, LoraConfig, LoraTrainConfig, OptimizerConfig, ParallelConfig
from starflow.train.lora import add_adapter, train_lora
from starflow.train.models import load_base
from tiny_pipeline import CAPTIONS, tiny_pipeline

FILE = "pytorch_lora_weights.safetensors"
LOOP = LoopConfig(num_steps=4, decay_steps=2, warmup_steps=1, checkpoint_every=2, preview_every=4, bf16=False)
DEEP = [f"flow.blocks.2.transformer.layers.0.{name}.lora_{half}.weight" for name in MATRICES for half in "AB"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def config(base: Path, tmp_path: Path) -> LoraTrainConfig:
    return LoraTrainConfig(
        output=str(tmp_path / "run"),
        latents=str(tmp_path / "latents"),
        init=str(base),
        data={"source": "toyworld", "num_clips": 4},
        batch_size=2,
        lora=LoraConfig(rank=2, alpha=4),
        optimizer=OptimizerConfig(lr=1e-2),
        loop=LOOP,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE)


def test_training_writes_an_adapter_that_the_model_loads(config: LoraTrainConfig, base: Path, tmp_path: Path):
    folder = train_lora(config)
    assert {path.name for path in folder.iterdir()} == {FILE, "adapter_config.json", "config.yaml"}
    assert sorted(weights(folder)) == sorted(DEEP)
    assert all(tensor.abs().sum() > 0 for tensor in weights(folder).values())  # B starts at zero
    about = json.loads((folder / "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"], about["base_model_name_or_path"]) == (2, 4, None)
    assert load_config(LoraTrainConfig, folder / "config.yaml") == config

    pipeline = StarFlowPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline(CAPTIONS[0], generator=torch.Generator().manual_seed(0), output_type="pt").frames
    pipeline.load_lora_weights(folder)
    assert pipeline.flow.peft_config["default_0"].lora_alpha == 4
    adapted = pipeline(CAPTIONS[0], generator=torch.Generator().manual_seed(0), output_type="pt").frames
    assert not torch.allclose(adapted, plain, atol=1e-3)


def test_only_the_adapter_is_trained_and_in_the_checkpoints(config: LoraTrainConfig):
    train_lora(config)
    (*_, checkpoint) = list_checkpoints(Path(config.output) / "checkpoints")
    (shard,) = checkpoint.glob("*.safetensors")
    weights = [name for name in load_file(shard) if not name.startswith("optimizer")]
    assert len([name for name in weights if not name.startswith("ema")]) == len(DEEP)


def test_training_lowers_the_loss_of_its_clips(config: LoraTrainConfig, capsys: pytest.CaptureFixture[str]):
    """Compared with an adapter that learns nothing, on the same batches and the same noise."""

    def last_loss(lr: float) -> float:
        loop = replace(LOOP, num_steps=40, decay_steps=10, log_every=10, preview_every=1000)
        changed = replace(config, output=f"{config.output}-{lr}", optimizer=OptimizerConfig(lr=lr), loop=loop)
        train_lora(changed)
        return float(capsys.readouterr().err.rpartition("nats_per_dim=")[2].partition(",")[0])

    assert last_loss(0.03) < last_loss(0) - 0.2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_resumed_run_equals_an_uninterrupted_one(config: LoraTrainConfig, dropout: float):
    config.lora.dropout = dropout
    loop = replace(LOOP, decay_steps=0)
    config.loop = loop
    whole = weights(train_lora(replace(config, output=f"{config.output}-whole")))
    for num_steps in (2, 4):
        config.loop = replace(loop, num_steps=num_steps)
        parts = replace(config, output=f"{config.output}-parts")
        folder = train_lora(parts, resume=num_steps == 4)
    torch.testing.assert_close(weights(folder), whole, rtol=0, atol=0)


def test_activation_checkpointing_changes_no_weight(config: LoraTrainConfig):
    config.lora.dropout = 0.5
    plain = weights(train_lora(config))
    saving = replace(config, output=f"{config.output}-2", parallel=ParallelConfig(activation_checkpointing="full"))
    torch.testing.assert_close(weights(train_lora(saving)), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_base_may_have_fewer_bits(config: LoraTrainConfig, precision: str):
    pytest.importorskip("torchao")
    config.base_precision = precision
    pipeline = load_base(config)
    assert pipeline.flow.deep.proj_in.weight.dtype == torch.bfloat16
    assert pipeline.vae.dtype == torch.float32
    qkv = pipeline.flow.deep.transformer.layers[0].attention.qkv.weight
    assert (type(qkv).__name__ != "Parameter") == (precision == "int8")
    adapter = weights(train_lora(config))
    assert sorted(adapter) == sorted(DEEP)
    assert all(tensor.dtype == torch.float32 and tensor.abs().sum() > 0 for tensor in adapter.values())


def test_targets_and_blocks_can_be_chosen(config: LoraTrainConfig):
    config.lora = LoraConfig(rank=3, targets=["attention.qkv", "mlp.down"], shallow_blocks=True)
    pipeline = load_base(config)
    add_adapter(pipeline.flow, config)
    trained = {name for name, parameter in pipeline.flow.named_parameters() if parameter.requires_grad}
    assert trained == {
        f"blocks.{block}.transformer.layers.0.{name}.lora_{half}.default.weight"
        for block in range(3)
        for name in ("attention.qkv", "mlp.down")
        for half in "AB"
    }


def test_the_size_of_the_clips_can_differ_from_the_models(config: LoraTrainConfig):
    config = replace(config, num_frames=5, fps=4, height=48, width=16)
    settings = load_base(config).config
    assert (settings.num_frames, settings.fps, settings.height, settings.width) == (5, 4, 48, 16)
    assert settings.noise_std == 0.3  # the model's
    assert sorted(weights(train_lora(config))) == sorted(DEEP)


def test_a_model_without_a_denoiser_can_be_adapted(config: LoraTrainConfig, tmp_path: Path):
    pipeline = StarFlowPipeline.from_pretrained(config.init)
    pipeline.register_modules(denoiser=None)
    pipeline.save_pretrained(tmp_path / "model")
    assert sorted(weights(train_lora(replace(config, init=str(tmp_path / "model"))))) == sorted(DEEP)


def test_frozen_text_is_encoded_once(config: LoraTrainConfig, monkeypatch: pytest.MonkeyPatch):
    config = replace(config, loop=replace(LOOP, preview_every=0))
    first = weights(train_lora(config))
    monkeypatch.setattr(T5EncoderModel, "forward", lambda *_, **__: pytest.fail("encoded again"))
    again = weights(train_lora(replace(config, output=f"{config.output}-2")))
    torch.testing.assert_close(again, first, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "nowhere"}, "no model at nowhere"),
        ({"base_precision": "int4"}, "unknown base_precision 'int4': choose float32, bfloat16, int8"),
        ({"lora": LoraConfig(rank=0)}, "lora.rank and lora.alpha must be at least 1"),
        ({"lora": LoraConfig(dropout=1.0)}, "lora.dropout at least 0 and less than 1"),
        ({"lora": LoraConfig(targets=["attention.q"])}, "lora.targets must be some of attention.qkv, attention.proj"),
        ({"lora": LoraConfig(targets=[])}, "lora.targets must be some of"),
        ({"lora": LoraConfig(dropout=0.1), "loop": replace(LOOP, workers=2)}, "needs loop.workers=1"),
        ({"num_frames": 10}, "cannot make 10 frames"),
        ({"base_precision": "int8", "parallel": ParallelConfig("fsdp")}, "set parallel.strategy=ddp"),
        ({"data": {"source": "tiny_game:TinyGame"}}, "the model takes no actions, but the clips have"),
    ],
)
def test_a_wrong_config_is_an_error_of_one_line(config: LoraTrainConfig, changes, message: str):
    with pytest.raises(StarflowError, match=message) as error:
        train_lora(replace(config, **changes))
    assert "\n" not in str(error.value)


def test_resuming_another_adapter_and_starting_twice_are_errors(config: LoraTrainConfig):
    train_lora(config)
    with pytest.raises(UsageError, match="continue it with --resume"):
        train_lora(config)
    with pytest.raises(StarflowError, match="cannot resume"):
        train_lora(replace(config, lora=LoraConfig(rank=5)), resume=True)
