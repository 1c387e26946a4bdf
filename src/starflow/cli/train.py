"""`starflow train`: train a VAE, a flow, a LoRA adapter or toyworld's text encoder from a config file."""

import json
from collections.abc import Callable
from typing import Any

import click

from starflow.cli.common import require_extra, say
from starflow.cli.quiet import hide_loading_bars


@click.group()
def train() -> None:
    """Train a VAE, a flow, a LoRA or toyworld's text encoder from a config file.

    KEY=VALUE, such as loop.seed=1, changes it.
    """


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option(
            "--resume", is_flag=True, help="Continue the run in the output folder from its newest checkpoint."
        ),
        click.option("--device", help="Such as cpu or cuda, instead of loop.device in the config."),
        click.option("-o", "--output", help="The folder of the run, instead of the one in the config."),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…"),
        click.argument("config", type=click.Path()),
    ):
        function = decorate(function)
    return function


def _begin(config: str) -> None:
    """Say at once what is read, because importing the libraries takes seconds."""
    require_extra("train")
    say(f"reading {config} ...")


def _load(
    cls: type[Any], config: str, overrides: tuple[str, ...], output: str | None, device: str | None = None
) -> Any:
    from starflow.config import load_config

    flags = {"output": output, "loop.device": device}
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    return load_config(cls, config, [*overrides, *given])


def _say(text: str) -> None:
    """Print, if this is the first of the processes that torchrun has started."""
    from starflow.hardware.ranks import Rank

    if Rank.of_this_process().rank == 0:
        click.echo(text)


@train.command()
@_options
def vae(config: str, overrides: tuple[str, ...], output: str | None, device: str | None, resume: bool) -> None:
    """Train a video autoencoder (VAE) on clips.

    CONFIG is a YAML file, such as recipes/clips/vae.yaml for a folder of your own clips.
    """
    _begin(config)
    from starflow.train.config import VAETrainConfig
    from starflow.train.vae import train_vae

    folder = train_vae(_load(VAETrainConfig, config, overrides, output, device), resume=resume)
    _say(f"trained autoencoder: {folder}")


@train.command()
@_options
def text(config: str, overrides: tuple[str, ...], output: str | None, device: str | None, resume: bool) -> None:
    """Train toyworld's text encoder.

    It learns captions of toyworld, the bundled world of moving shapes. It does not work for other clips.
    """
    _begin(config)
    from starflow.toyworld.teaching.text import TextTrainConfig, train_text

    folder = train_text(_load(TextTrainConfig, config, overrides, output, device), resume=resume)
    _say(f"trained text encoder: {folder}")


@train.command()
@_options
def flow(config: str, overrides: tuple[str, ...], output: str | None, device: str | None, resume: bool) -> None:
    """Train a flow, its denoiser and its text encoder on captioned clips, from a model or from scratch.

    CONFIG is a YAML file, such as recipes/clips/flow.yaml for a folder of clips and captions. The clips are encoded
    once. The folder of the run holds the latents, checkpoints, a TensorBoard log and, at the end, the model in the
    folder `final`.

    \b
    starflow train flow recipes/clips/flow.yaml data.path=clips/ output=runs/mine
    starflow train flow recipes/clips/flow.yaml data.path=clips/ output=runs/mine --resume
    tensorboard --logdir runs/mine
    """
    _begin(config)
    from starflow.train.config import FlowTrainConfig
    from starflow.train.flow import train_flow

    hide_loading_bars()
    folder = train_flow(_load(FlowTrainConfig, config, overrides, output, device), resume=resume)
    _say(f"trained model: {folder}")


@train.command()
@_options
def lora(config: str, overrides: tuple[str, ...], output: str | None, device: str | None, resume: bool) -> None:
    """Train a LoRA adapter of a model on captioned clips: a small file that changes what the model makes.

    CONFIG is a YAML file, such as recipes/clips/lora.yaml for a folder of clips and captions. At the end, the adapter
    is in the folder `final` of the run.

    \b
    starflow train lora recipes/clips/lora.yaml data.path=clips/ output=runs/style
    starflow generate "a dog runs" --lora runs/style/final -o dog.mp4
    """
    _begin(config)
    from starflow.train.config import LoraTrainConfig
    from starflow.train.lora import train_lora

    hide_loading_bars()
    folder = train_lora(_load(LoraTrainConfig, config, overrides, output, device), resume=resume)
    _say(f"trained LoRA: {folder}")


@train.command()
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="Number of GPUs.")
@click.option("--gpu", type=click.Choice(("a100", "h100", "h200", "b200")), default="h100", show_default=True)
@click.option(
    "--utilisation",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.4,
    show_default=True,
    help="Share of the GPU's peak in bfloat16 that training reaches.",
)
@click.option("--clips", type=click.FloatRange(0, min_open=True), help="Also say how long this number of clips takes.")
def plan(config: str, overrides: tuple[str, ...], gpus: int, gpu: str, utilisation: float, clips: float | None) -> None:
    """Compute what training a flow by a config needs: parameters, operations, memory and time.

    No weights are loaded, and nothing is measured: the speed follows from the utilisation.

    \b
    starflow train plan recipes/starflow-v-7b/4-video-640.yaml --gpus 96 --gpu h100 --clips 70e6
    """
    require_extra("train")
    from starflow.hardware.flops import GPUS
    from starflow.train.config import FlowTrainConfig
    from starflow.train.plan import make_plan

    made = make_plan(_load(FlowTrainConfig, config, overrides, None), gpus, gpu, utilisation)
    for name, number in made.parameters.items():
        click.echo(f"{name:<14}{number / 1e6:>10,.1f} million parameters{'' if name in made.trained else ', frozen'}")
    click.echo(f"a step: {made.clips:,.0f} clips and images, {made.tokens:,.0f} tokens, {made.flops:.3g} operations")
    click.echo("memory of a GPU:")
    for name, number in made.memory.items():
        click.echo(f"  {name:<44}{number / 1e9:>8.1f} GB")
    fits = "fits" if made.total_memory < GPUS[gpu].memory else "does not fit"
    click.echo(f"  {'together':<44}{made.total_memory / 1e9:>8.1f} GB of {GPUS[gpu].memory / 1e9:.0f}: {fits}")
    click.echo(
        f"at {utilisation:.0%} of the peak: {made.seconds_per_step:.3g} seconds a step, "
        f"{made.tokens_per_second:,.0f} tokens/s, {made.days():.3g} days for {made.num_steps:,} steps"
    )
    if clips is not None:
        click.echo(f"{made.days(clips):.3g} days for {clips:,.0f} clips and images")
