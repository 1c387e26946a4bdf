import copy
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from clip_sources import ClipList, moving_noise
from starflow.data.buckets import Bucket
from starflow.data.clip import Clip
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.latents import LatentCache
from starflow.data.tasks import DEFAULT_WEIGHTS, Batch, Mixture, TaskWeights
from starflow.encoders.text import encode_text, wrap_caption
from starflow.errors import StarflowError, UsageError
from starflow.flow.actions import ActionSpace
from starflow.flow.loss import add_noise, negative_log_likelihood
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.toyworld.source import Toyworld
from starflow.train.auxiliary import build_auxiliary_loss
from starflow.train.checkpoint import list_checkpoints
from starflow.train.config import (
    DenoiserModelConfig,
    FlowModelConfig,
    FlowTrainConfig,
    LoopConfig,
    OptimizerConfig,
    PipelineConfig,
    TextModelConfig,
)
from starflow.train.flow import FlowStep, train_flow, write_preview
from starflow.train.flow_data import describe_tasks
from starflow.train.loop import micro_generator, optimizer_step
from starflow.train.models import new_networks, require_actions
from starflow.train.state import Trained, create_state
from tiny_game import TinyGame
from tiny_pipeline import tiny_pipeline, tiny_vae

FORMAT = ClipFormat(num_frames=9, fps=8, height=32, width=32)
SOURCE = Toyworld(4, edited=1.0, long=1.0)
NOISE_STD = 0.4
LOOP = LoopConfig(num_steps=3, decay_steps=1, warmup_steps=1, checkpoint_every=2, bf16=False)


def tiny_config(folder: Path, **changes) -> FlowTrainConfig:
    if not (folder / "vae").exists():
        tiny_vae().save_pretrained(folder / "vae")
    values = {
        "output": str(folder / "run"),
        "vae": str(folder / "vae"),
        "batch_size": 2,
        "data": {"source": "toyworld", "num_clips": 4, "edited": 0.5},
        "pipeline": PipelineConfig(num_frames=9, fps=8, height=32, width=32, noise_std=0.3, max_text_tokens=24),
        "flow": FlowModelConfig([1, 1], 1, 20, 20, head_dim=20),
        "denoiser": DenoiserModelConfig(20, 1),
        "text": TextModelConfig(300, 16, 1),
        "loop": LOOP,
    }
    return FlowTrainConfig(**(values | changes))


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    pipeline = tiny_pipeline(noise_std=NOISE_STD, caption_has_noise_level=True)
    for module in (pipeline.flow, pipeline.denoiser, pipeline.text_encoder):
        module.requires_grad_().train()
    return pipeline


@pytest.fixture(scope="module")
def cache(pipeline: StarFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    return open_latent_cache(tmp_path_factory.mktemp("cache"), SOURCE, pipeline.codec, FORMAT, show_progress=False)


def mixture_of(cache: LatentCache, task: str) -> Mixture:
    return Mixture(cache, TaskWeights(**(dict.fromkeys(DEFAULT_WEIGHTS, 0.0) | {task: 1.0})), 4, caption_dropout=0.25)


@pytest.fixture(
    params=[("text_to_video", 0), ("text_to_video", 4), ("image", 0), ("video_to_video", 4), ("last", 0), ("extend", 0)]
)
def step(request: pytest.FixtureRequest, pipeline: StarFlowPipeline, cache: LatentCache) -> FlowStep:
    task, weight = request.param
    auxiliary = build_auxiliary_loss("toyworld-grounding", pipeline.flow, SOURCE) if weight else None
    return FlowStep(pipeline, mixture_of(cache, task), LOOP, auxiliary, weight)


def gradients(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


def run(step: FlowStep, scale: float = 1.0) -> dict[str, float]:
    for module in (step.flow, step.denoiser, step.pipeline.text_encoder):
        module.zero_grad(set_to_none=True)
    return step(0, 0, scale)


def test_gradients_equal_those_of_the_losses_written_out(step: FlowStep, pipeline: StarFlowPipeline):
    metrics = run(step)
    flow, text_encoder, denoiser = pipeline.flow, pipeline.text_encoder, pipeline.denoiser
    got = [gradients(module) for module in (flow, text_encoder, denoiser)]

    batch = step.mixture.batch(0)
    made = slice({"video_to_video": 3, "last": 1}.get(batch.task, 0), None)
    noisy = add_noise(batch.latents, NOISE_STD, micro_generator(LOOP, 0, 0)).requires_grad_()
    fps = 0 if batch.task == "image" else 8
    wrapped = [wrap_caption(caption, fps=fps, noise_std=NOISE_STD) for caption in batch.captions]
    text = encode_text(pipeline.tokenizer, text_encoder, wrapped, 32)
    encoded = flow(noisy, text)
    nats = (0.5 * encoded.z.square() - encoded.log_det)[:, made]
    loss = total = NOISE_STD / 0.3 * nats.mean()
    if step.auxiliary is not None:
        auxiliary = step.auxiliary(batch, noisy.detach(), text)
        total = loss + NOISE_STD / 0.3 * 4 * auxiliary.sum() / nats.numel()
        assert metrics["auxiliary_nats"] == pytest.approx(auxiliary.mean().item(), rel=1e-5)
    wanted = [
        torch.cat([g.flatten() for g in torch.autograd.grad(total, list(module.parameters()), retain_graph=True)])
        for module in (flow, text_encoder)
    ]
    (score,) = torch.autograd.grad(nats.sum(), noisy)
    error = (denoiser(noisy.detach(), text.detach()) - NOISE_STD**2 / 0.3 * score).square()
    denoiser_loss = error[:, made].mean()
    wanted.append(torch.cat([g.flatten() for g in torch.autograd.grad(denoiser_loss, list(denoiser.parameters()))]))
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["denoiser_loss"] == pytest.approx(denoiser_loss.item(), rel=1e-4)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_scale_scales_gradients_but_not_the_denoisers_target(step: FlowStep):
    whole = run(step)
    flow, denoiser = gradients(step.flow), gradients(step.denoiser)
    half = run(step, 0.5)
    assert half["denoiser_loss"] == pytest.approx(whole["denoiser_loss"], rel=1e-4)
    torch.testing.assert_close(2 * gradients(step.flow), flow, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(2 * gradients(step.denoiser), denoiser, rtol=1e-3, atol=1e-5)


def test_captions_are_encoded_as_by_the_pipeline(step: FlowStep, pipeline: StarFlowPipeline):
    batch = step.mixture.batch(0)
    expected = pipeline.encode_prompt(batch.captions, 0 if batch.task == "image" else 8)
    torch.testing.assert_close(step._encode(batch), expected)


def test_forward_hooks_of_the_flow_and_the_denoiser_are_called(step: FlowStep):
    called = []
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(type(module).__name__))
        for module in (step.flow, step.denoiser)
    ]
    run(step)
    for hook in hooks:
        hook.remove()
    assert called == ["StarFlow", "CausalDenoiser"]


def test_losses_are_logged_by_task_and_by_bucket(step: FlowStep):
    metrics, task = run(step), step.mixture.batch(0).task
    bucket = "1x32x32" if task == "image" else "9x32x32"
    for name in ("loss", "nats_per_dim"):
        assert metrics[f"{name}/{task}"] == metrics[f"{name}/{bucket}"] == metrics[name]
    assert metrics[f"bits_per_dim/{bucket}"] == pytest.approx(metrics["nats_per_dim"] / math.log(2))


def test_frozen_parts_get_no_gradient_and_their_losses_are_left_out(pipeline: StarFlowPipeline, cache: LatentCache):
    frozen = copy.deepcopy(pipeline)
    for module in (frozen.flow, frozen.denoiser, frozen.text_encoder):
        module.requires_grad_(module is frozen.flow).zero_grad(set_to_none=True)
    one, other = (FlowStep(each, mixture_of(cache, "text_to_video"), LOOP) for each in (pipeline, frozen))
    whole, part = run(one), other(0, 0, 1.0)
    assert "denoiser_loss" not in part
    assert 0 < part["flops"] < whole["flops"]
    for name in part.keys() - {"flops", "data_seconds"}:
        assert part[name] == pytest.approx(whole[name], rel=1e-5), name
    torch.testing.assert_close(gradients(frozen.flow), gradients(pipeline.flow), rtol=1e-3, atol=1e-5)
    for module in (frozen.text_encoder, frozen.denoiser):
        assert all(parameter.grad is None for parameter in module.parameters())


def test_training_learns_four_clips(tmp_path: Path):
    """Compared with the likelihood under an untrained flow and the error of a denoiser that predicts zero."""
    pipeline = tiny_pipeline()
    source = ClipList([Clip(moving_noise(9, seed=seed), 8, [f"clip {seed}"]) for seed in range(4)])
    cache = open_latent_cache(tmp_path, source, pipeline.codec, FORMAT, show_progress=False)
    config = tiny_config(tmp_path, flow=FlowModelConfig([1, 1], 2, 40, 40, 20), denoiser=DenoiserModelConfig(40, 1))
    settings = pipeline.config
    flow, denoiser = new_networks(config, settings, pipeline.codec, pipeline.text_encoder.config.d_model)
    pipeline.register_modules(flow=flow, denoiser=denoiser)
    config.loop = LoopConfig(num_steps=80, decay_steps=40, warmup_steps=5, bf16=False)
    optimizer = OptimizerConfig(lr=1e-2)
    step = FlowStep(pipeline, mixture_of(cache, "text_to_video"), config.loop)
    state = create_state({"flow": Trained(flow, optimizer), "denoiser": Trained(denoiser, optimizer)}, config.loop)
    metrics = [optimizer_step(state, step, config.loop) for _ in range(80)]
    start, end = metrics[0]["nats_per_dim"], sum(each["nats_per_dim"] for each in metrics[-10:]) / 10
    assert end < start - 0.5

    trained = run(step)["denoiser_loss"]
    torch.nn.init.zeros_(denoiser.proj_out.weight)
    torch.nn.init.zeros_(denoiser.proj_out.bias)
    assert trained < 0.5 * run(step)["denoiser_loss"]


class GameBatches:
    """Latents of 3 frames: noise, and then plus or minus 1, as the action says."""

    SPACE = ActionSpace(sizes=(2,))

    def batch(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        choices = torch.randint(2, (8, 3, 1), generator=generator)
        latents = torch.randn(8, 3, 4, 2, 2, generator=generator) * 0.1
        latents += (2 * choices - 1)[..., None, None] * torch.tensor([0, 1, 1])[:, None, None, None]
        actions = self.SPACE.features(choices) * torch.tensor([[0], [1], [1]])
        return Batch("text_to_video", Bucket(5, 16, 16), latents, ["a game"] * 8, [0] * 8, actions=actions)


def test_training_learns_what_actions_do(tmp_path: Path):
    """Under the trained flow, videos are likelier with their own actions than with those of other videos."""
    pipeline, batches = tiny_pipeline(), GameBatches()
    config = tiny_config(tmp_path, loop=LoopConfig(num_steps=30, decay_steps=10, warmup_steps=3, bf16=False))
    torch.manual_seed(0)
    flow, denoiser = new_networks(config, pipeline.config, pipeline.codec, pipeline.text_encoder.config.d_model)
    flow.add_actions(batches.SPACE)
    pipeline.register_modules(flow=flow, denoiser=denoiser)
    state = create_state({"flow": Trained(flow, OptimizerConfig(lr=2e-2))}, config.loop)
    step = FlowStep(pipeline, batches, config.loop)
    for _ in range(30):
        optimizer_step(state, step, config.loop)

    batch = batches.batch(1000)
    text, x = pipeline.encode_prompt(batch.captions, 8), add_noise(batch.latents, 0.3)
    true, others, none = (
        negative_log_likelihood(flow.encode(x, text, actions)).mean().item()
        for actions in (batch.actions, batch.actions.roll(1, dims=0), None)
    )
    assert true < others - 0.2
    assert true < none - 0.1


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_training_makes_a_model_that_loads_and_generates(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = train_flow(tiny_config(tmp_path))
    # extend has clips, as toyworld's 17 frames are more than the model's 9
    told = "tasks: text_to_video 50%, image 10%, extend 10%, video_to_video 20%, last 10%"
    assert told in capsys.readouterr().out.splitlines()
    pipeline = StarFlowPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red circle moves right", output_type="pt").frames.shape == (1, 9, 3, 32, 32)
    assert pipeline.flow.config.position_length == 2
    assert not [path for path in folder.rglob("*.json") if str(tmp_path) in path.read_text()]


def test_training_on_clips_with_actions_makes_a_model_that_takes_them(tmp_path: Path):
    data = {"source": "tiny_game:TinyGame"}
    folder = train_flow(tiny_config(tmp_path, data=data, denoiser=DenoiserModelConfig(20, 1, temporal_causal=1)))
    pipeline = StarFlowPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.flow.action_space == TinyGame.action_space
    assert pipeline.flow.deep.proj_action.weight.abs().max() > 0
    assert pipeline.denoiser.lookahead == 0
    assert pipeline("a bar", actions=[0] * 9, output_type="pt").frames.shape == (1, 9, 3, 32, 32)
    with pytest.raises(UsageError, match=r"the model takes the actions .*, but the clips have"):
        require_actions(pipeline.flow, ActionSpace(sizes=(4,)))


def test_training_from_a_model_keeps_its_settings(tmp_path: Path):
    unusual = {
        "noise_std": 0.4,
        "caption_has_noise_level": True,
        "caption_has_aspect_ratio": True,
        "fps": 12,
        "height": 32,
        "width": 48,
        "later_frame_scale": 0.5,
        "guidance_scale": 1.5,
        "sampler": "block-jacobi",
        "tolerance": 0.05,
    }
    first = tiny_pipeline(**unusual)
    first.save_pretrained(tmp_path / "first")
    stopped = OptimizerConfig(lr=0)
    config = FlowTrainConfig(
        output=str(tmp_path / "more"),
        init=str(tmp_path / "first"),
        batch_size=2,
        data={"source": "toyworld", "num_clips": 4},
        pipeline=PipelineConfig(guidance_scale=2.5),
        optimizer=stopped,
        denoiser_optimizer=stopped,
        loop=tiny_config(tmp_path).loop,
    )
    second = StarFlowPipeline.from_pretrained(train_flow(config))
    for name in ("flow", "denoiser", "text_encoder", "vae"):
        before, after = first.components[name].state_dict(), second.components[name].state_dict()
        torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-2)  # saved in bfloat16
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    for name in vars(PipelineConfig()):
        assert second.config[name] == (2.5 if name == "guidance_scale" else first.config[name]), name


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    whole = train_flow(tiny_config(tmp_path, loop=LoopConfig(num_steps=4, decay_steps=0, bf16=False)))
    parts = tiny_config(tmp_path, output=str(tmp_path / "parts"), latents=str(tmp_path / "run" / "latents"))
    for num_steps in (2, 4):
        parts.loop = LoopConfig(num_steps=num_steps, decay_steps=0, bf16=False)
        folder = train_flow(parts, resume=num_steps == 4)
    assert len(list_checkpoints(tmp_path / "parts" / "checkpoints")) == 2
    one, other = (StarFlowPipeline.from_pretrained(path) for path in (whole, folder))
    for name in ("flow", "denoiser", "text_encoder"):
        torch.testing.assert_close(
            one.components[name].state_dict(), other.components[name].state_dict(), rtol=0, atol=0
        )


def test_training_starts_from_a_trained_text_encoder_and_can_freeze_it(tmp_path: Path):
    other = tiny_pipeline()
    other.text_encoder.save_pretrained(tmp_path / "text" / "text_encoder")
    other.tokenizer.save_pretrained(tmp_path / "text" / "tokenizer")
    config = tiny_config(tmp_path, text_encoder=str(tmp_path / "text"), train_text_encoder=False)
    pipeline = StarFlowPipeline.from_pretrained(train_flow(config))
    assert pipeline.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    wanted = other.text_encoder.to(torch.bfloat16).float().state_dict()
    torch.testing.assert_close(pipeline.text_encoder.state_dict(), wanted, rtol=0, atol=0)
    (*_, checkpoint) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert saved_modules(checkpoint) == {"flow", "denoiser"}


def saved_modules(checkpoint: Path) -> set[str]:
    """The names of the modules whose weights are in a checkpoint."""
    with safe_open(next(checkpoint.glob("*.safetensors")), "pt") as file:
        return {key.partition(".")[0] for key in file.keys()} - {"ema", "optimizer"}  # noqa: SIM118


def test_an_auxiliary_loss_is_in_the_checkpoint_but_not_in_the_model(tmp_path: Path):
    config = tiny_config(tmp_path, auxiliary_loss="toyworld-grounding", auxiliary_weight=3.0)
    folder = train_flow(config)
    (*_, checkpoint) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert "auxiliary" in saved_modules(checkpoint)
    assert not list(folder.rglob("*auxiliary*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": None}, "set `vae`, the folder of a trained autoencoder, or `init`"),
        ({"vae": "nowhere"}, "no autoencoder at nowhere"),
        ({"text_encoder": "nowhere"}, "no text encoder at nowhere"),
        ({"pipeline": PipelineConfig(fps=8, width=32)}, "must set pipeline.num_frames, pipeline.height$"),
        ({"tasks": TaskWeights(extend=0.5), "data": {"source": "toyworld", "num_clips": 1}}, None),
        ({"auxiliary_loss": "toyworld-groundin"}, "no auxiliary loss .*did you mean toyworld-grounding"),
        ({"data": {"source": "toyworld"}}, "needs data.num_clips"),
    ],
)
def test_an_incomplete_config_is_an_error_of_one_line(tmp_path: Path, changes, message: str | None):
    if message is None:
        changes["pipeline"] = PipelineConfig(num_frames=17, fps=8, height=32, width=32)
        message = "there are no clips for tasks.extend"
    with pytest.raises(UsageError, match=message) as error:
        train_flow(tiny_config(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_tasks_that_are_not_trained_are_listed(cache: LatentCache):
    assert describe_tasks(mixture_of(cache, "image")) == (
        "tasks: image 100%; not trained: text_to_video, extend, video_to_video, last"
    )


# --- previews --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [{"num_frames": 1}, {"height": 48, "width": 16}])
def test_a_preview_is_a_clip_of_all_prompts_side_by_side(tmp_path: Path, size: dict[str, int]):
    pipeline = tiny_pipeline(**size)
    with SummaryWriter(str(tmp_path / "log")) as writer:
        write_preview(pipeline, ["a", "b"], writer, tmp_path / "previews", 3)
    path = tmp_path / "previews" / "step-00000003.gif"
    with Image.open(path) as clip:
        assert clip.size == (2 * pipeline.config.width, pipeline.config.height)
        assert clip.n_frames <= pipeline.config.num_frames
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    (logged,) = events.Images("previews")
    assert (logged.step, logged.encoded_image_string) == (3, path.read_bytes())


def test_a_preview_that_fails_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class Broken:
        def __call__(self, *_, **__):
            raise StarflowError("NaN in the sampled latents")

    with SummaryWriter(str(tmp_path)) as writer:
        write_preview(Broken(), ["a"], writer, tmp_path, 3)
    assert "no preview at step 3: NaN in the sampled latents" in capsys.readouterr().out
