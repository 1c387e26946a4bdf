from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invertible_maps import randomize
from starflow.data.latents import LatentCache
from starflow.data.tasks import Mixture, TaskWeights
from starflow.encoders.text import load_text_encoder, tiny_text_encoder, train_tokenizer, wrap_caption
from starflow.errors import UsageError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.teaching.grounding import GroundingHead, states_halfway
from starflow.toyworld.teaching.text import TextTrainConfig, train_text
from starflow.train.config import (
    DenoiserModelConfig,
    FlowDataConfig,
    FlowModelConfig,
    FlowTrainConfig,
    LoopConfig,
    OptimizerConfig,
    TextModelConfig,
)
from starflow.train.flow import FlowStep, build_models, build_tokenizer, train_flow
from starflow.train.loop import micro_generator
from tiny_pipeline import tiny_vae

CHANNELS = 4


def tiny_config(folder: Path) -> FlowTrainConfig:
    return FlowTrainConfig(
        output=str(folder / "run"),
        vae=str(folder / "vae"),
        batch_size=2,
        data=FlowDataConfig(cache=str(folder / "latents"), num_clips=6, num_edits=3, num_long_clips=2),
        flow=FlowModelConfig([1, 1], 1, 20, 20, head_dim=20),
        denoiser=DenoiserModelConfig(20, 1),
        text=TextModelConfig(300, 24, 16, 1),
        loop=LoopConfig(num_steps=3, decay_steps=1, preview_every=3, checkpoint_every=2, bf16=False),
    )


@pytest.fixture(params=[("text_to_video", 0.0), ("text_to_video", 4.0), ("video_to_video", 0.0), ("last", 4.0)])
def step(request: pytest.FixtureRequest, tmp_path: Path) -> FlowStep:
    task, grounding = request.param
    config = replace(tiny_config(tmp_path), grounding=grounding)
    clips = torch.randn(4, 3, CHANNELS, 2, 2)
    texts = ("a red circle", "a blue square", "a green triangle", "a white circle")
    captions = [[text] for text in texts]
    long_clips = torch.cat([clips, clips], dim=1)
    cells = torch.randint(-1, 3, (4, 3, 2, 2), dtype=torch.int8)
    cache = LatentCache(clips, clips[:, -1:], clips, long_clips, cells, cells, captions, captions, list(texts))
    tokenizer = build_tokenizer(cache, 300)
    flow, denoiser, text_encoder, _ = build_models(config, tokenizer, CHANNELS)
    mixture = Mixture(cache, TaskWeights(**{**dict.fromkeys(vars(TaskWeights()), 0), task: 1}), 4, 0.0, 0.0, 0)
    for module in (flow, denoiser):
        randomize(module, dtype=torch.float32).requires_grad_()
    return FlowStep(flow, denoiser, text_encoder, tokenizer, mixture, config, GroundingHead(20) if grounding else None)


def task(step: FlowStep) -> str:
    (name,) = (name for name, weight in vars(step.mixture.weights).items() if weight)
    return name


def gradients(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


def run(step: FlowStep, scale: float = 1.0) -> dict[str, float]:
    for module in (step.flow, step.denoiser, step.text_encoder):
        module.zero_grad(set_to_none=True)
    return step(0, 0, scale)


def test_gradients_are_those_of_the_losses_written_out(step: FlowStep):
    metrics = run(step)
    got = [gradients(module) for module in (step.flow, step.text_encoder, step.denoiser)]

    batch = step.mixture.batch(0)
    noise = torch.randn(batch.latents.shape, generator=micro_generator(step.config.loop, 0, 0))
    noisy = (batch.latents + 0.3 * noise).requires_grad_()
    wrapped = [wrap_caption(caption, fps=8) for caption in batch.captions]
    tokens = step.tokenizer(wrapped, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    text = step.text_encoder(**tokens).last_hidden_state * tokens.attention_mask[..., None]
    encoded = step.flow(noisy, text)
    nats = 0.5 * encoded.z.square() - encoded.log_det
    made = {"text_to_video": nats, "video_to_video": nats[:, 3:], "last": nats[:, 1:]}[task(step)]
    loss = total = made.mean()
    if step.grounding_head is not None:
        u = step.flow.encode_shallow(noisy).detach()
        grounding = step.grounding_head(states_halfway(step.flow, u, text, batch.num_given), batch.cells)
        total = loss + step.config.grounding * grounding.sum() / made.numel()
    wanted = [
        torch.cat([g.flatten() for g in torch.autograd.grad(total, list(module.parameters()), retain_graph=True)])
        for module in (step.flow, step.text_encoder)
    ]
    (score,) = torch.autograd.grad(loss, noisy)
    target = 0.3 * made.numel() * score  # the weight noise_std / 0.3 is 1 here
    error = (step.denoiser(noisy.detach(), text.detach()) - target).square()
    denoiser_loss = error[:, batch.num_given :].mean()
    wanted.append(
        torch.cat([g.flatten() for g in torch.autograd.grad(denoiser_loss, list(step.denoiser.parameters()))])
    )
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["denoiser_loss"] == pytest.approx(denoiser_loss.item(), rel=1e-4)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_scale_scales_gradients_and_not_the_denoisers_target(step: FlowStep):
    whole = run(step)
    flow, denoiser = gradients(step.flow), gradients(step.denoiser)
    half = run(step, 0.5)
    assert half["denoiser_loss"] == pytest.approx(whole["denoiser_loss"], rel=1e-4)
    torch.testing.assert_close(2 * gradients(step.flow), flow, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(2 * gradients(step.denoiser), denoiser, rtol=1e-3, atol=1e-5)


def test_training_makes_a_model_that_loads_and_generates(tmp_path: Path):
    config = tiny_config(tmp_path)
    with pytest.raises(UsageError, match="no autoencoder"):
        train_flow(config)
    tiny_vae().save_pretrained(config.vae)
    folder = train_flow(config)
    pipeline = StarFlowPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red circle moves right", output_type="pt").frames.shape == (1, 17, 3, 64, 64)


def test_training_goes_on_from_a_model(tmp_path: Path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    config = tiny_config(tmp_path)
    first = train_flow(config)

    stopped = OptimizerConfig(lr=0)
    more = FlowTrainConfig(
        output=str(tmp_path / "more"),
        init=str(first),
        batch_size=2,
        data=config.data,
        optimizer=stopped,
        denoiser_optimizer=stopped,
        loop=config.loop,
    )
    second = train_flow(more)
    before, after = (StarFlowPipeline.from_pretrained(folder) for folder in (first, second))
    for name in ("flow", "denoiser", "text_encoder", "vae"):
        torch.testing.assert_close(after.components[name].state_dict(), before.components[name].state_dict())
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert after.config.max_text_tokens == before.config.max_text_tokens == 24
    assert not [path for path in second.rglob("*.json") if str(tmp_path) in path.read_text()]


def test_training_starts_from_a_trained_text_encoder(tmp_path: Path):
    config = tiny_config(tmp_path)
    tiny_vae().save_pretrained(config.vae)
    text = TextTrainConfig(
        output=str(tmp_path / "text"), batch_size=2, text=TextModelConfig(350, 24, 16, 2), loop=config.loop
    )
    config.text_encoder = str(train_text(text))
    config.optimizer = OptimizerConfig(lr=0)
    pipeline = StarFlowPipeline.from_pretrained(train_flow(config))
    tokenizer, encoder = load_text_encoder(config.text_encoder)
    assert pipeline.tokenizer.get_vocab() == tokenizer.get_vocab()
    torch.testing.assert_close(
        pipeline.text_encoder.state_dict(), encoder.to(torch.bfloat16).float().state_dict(), check_dtype=False
    )


def test_a_text_encoder_of_another_width_is_refused(tmp_path: Path):
    config = tiny_config(tmp_path)
    tiny_vae().save_pretrained(config.vae)
    tokenizer = train_tokenizer(["a red circle"], 300)
    tiny_text_encoder(len(tokenizer), width=32, layers=1).save_pretrained(tmp_path / "text" / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "text" / "tokenizer")
    config.text_encoder = str(tmp_path / "text")
    with pytest.raises(UsageError, match="32 wide, and the flow reads 16"):
        train_flow(config)


def test_training_needs_an_autoencoder_or_a_model_to_start_from(tmp_path: Path):
    config = tiny_config(tmp_path)
    config.vae = None
    with pytest.raises(UsageError, match="set `vae`"):
        train_flow(config)


@pytest.mark.parametrize("number", ["num_edits", "num_long_clips"])
def test_a_task_without_clips_is_refused(tmp_path: Path, number: str):
    config = tiny_config(tmp_path)
    setattr(config.data, number, 0)
    with pytest.raises(UsageError, match=f"set data.{number}"):
        train_flow(config)
