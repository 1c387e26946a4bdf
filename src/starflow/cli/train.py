"""`starflow train`: train a VAE, a flow or toyworld's text encoder from a config file."""

import json
from collections.abc import Callable
from typing import Any

import click

from starflow.cli.common import require_extra
from starflow.cli.quiet import hide_loading_bars


@click.group()
def train() -> None:
    """Train a VAE, a flow or toyworld's text encoder from a config file. KEY=VALUE, such as loop.seed=1, changes it."""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option(
            "--resume", is_flag=True, help="Continue the run in the output folder from its newest checkpoint."
        ),
        click.option("-o", "--output", help="The folder of the run, instead of the one in the config."),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…"),
        click.argument("config", type=click.Path()),
    ):
        function = decorate(function)
    return function


def _load(cls: type[Any], config: str, overrides: tuple[str, ...], output: str | None) -> Any:
    from starflow.config import load_config

    return load_config(cls, config, [*overrides, *([f"output={json.dumps(output)}"] if output else [])])


def _say(text: str) -> None:
    """Print, if this is the first of the processes that torchrun has started."""
    from starflow.hardware.ranks import Rank

    if Rank.of_this_process().rank == 0:
        click.echo(text)


@train.command()
@_options
def vae(config: str, overrides: tuple[str, ...], output: str | None, resume: bool) -> None:
    """Train a video autoencoder (VAE) on clips.

    CONFIG is a YAML file, such as recipes/clips/vae.yaml for a folder of your own clips.
    """
    require_extra("train")
    from starflow.train.config import VAETrainConfig
    from starflow.train.vae import train_vae

    folder = train_vae(_load(VAETrainConfig, config, overrides, output), resume=resume)
    _say(f"trained autoencoder: {folder}")


@train.command()
@_options
def text(config: str, overrides: tuple[str, ...], output: str | None, resume: bool) -> None:
    """Train toyworld's text encoder.

    It learns captions of toyworld, the bundled world of moving shapes. It does not work for other clips.
    """
    require_extra("train")
    from starflow.toyworld.teaching.text import TextTrainConfig, train_text

    folder = train_text(_load(TextTrainConfig, config, overrides, output), resume=resume)
    _say(f"trained text encoder: {folder}")


@train.command()
@_options
def flow(config: str, overrides: tuple[str, ...], output: str | None, resume: bool) -> None:
    """Train a flow, its denoiser and its text encoder on captioned clips, from a model or from scratch.

    CONFIG is a YAML file, such as recipes/clips/flow.yaml for a folder of clips and captions. The clips are encoded
    once. The folder of the run holds the latents, checkpoints, a TensorBoard log and, at the end, the model in the
    folder `final`.

    \b
    starflow train flow recipes/clips/flow.yaml data.path=clips/ output=runs/mine
    starflow train flow recipes/clips/flow.yaml data.path=clips/ output=runs/mine --resume
    tensorboard --logdir runs/mine
    """
    require_extra("train")
    from starflow.train.config import FlowTrainConfig
    from starflow.train.flow import train_flow

    hide_loading_bars()
    folder = train_flow(_load(FlowTrainConfig, config, overrides, output), resume=resume)
    _say(f"trained model: {folder}")
