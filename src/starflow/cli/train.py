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
    click.echo(f"trained autoencoder: {folder}")


@train.command()
@_options
def text(config: str, overrides: tuple[str, ...], output: str | None, device: str | None, resume: bool) -> None:
    """Train toyworld's text encoder.

    It learns captions of toyworld, the bundled world of moving shapes. It does not work for other clips.
    """
    _begin(config)
    from starflow.toyworld.teaching.text import TextTrainConfig, train_text

    folder = train_text(_load(TextTrainConfig, config, overrides, output, device), resume=resume)
    click.echo(f"trained text encoder: {folder}")


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
    click.echo(f"trained model: {folder}")


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
    click.echo(f"trained LoRA: {folder}")
