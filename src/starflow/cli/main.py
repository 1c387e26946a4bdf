"""The command group: loads the module of a subcommand, and turns errors into one line and an exit status.

Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted. `STARFLOW_DEBUG=1` shows tracebacks.
"""

import io
import os
import signal
import sys
from importlib import import_module
from typing import Any, NamedTuple

import click

from starflow import __version__
from starflow.cli.hints import hint
from starflow.cli.quiet import quiet_libraries
from starflow.errors import StarflowError, UsageError
from starflow.hardware.ranks import Rank
from starflow.startup import save_cpu_time

OUT_OF_MEMORY = "there is not enough memory: make a shorter or smaller video; `starflow info` says what one needs"

MISSING = "the package {} is not installed: in the repository, pip install -c constraints.txt -e ."


class LazyCommand(NamedTuple):
    """Where a subcommand is defined, and its line in `starflow --help`, which does not load it.

    `distributed`: whether several processes, started with torchrun, can share its work.
    """

    module: str
    attribute: str
    short_help: str
    distributed: bool = False


COMMANDS = {
    "generate": LazyCommand("starflow.cli.generate", "generate", "Make a video from a sentence.", distributed=True),
    "score": LazyCommand("starflow.cli.score", "score", "Compute how likely clips are under captions."),
    "encode": LazyCommand("starflow.cli.encode", "encode", "Map a clip to noise."),
    "decode": LazyCommand("starflow.cli.decode", "decode", "Map the noise of a clip back to a clip."),
    "data": LazyCommand(
        "starflow.cli.data", "data", "Check clips before training, and encode them to latents.", distributed=True
    ),
    "record": LazyCommand("starflow.cli.record", "record", "Record episodes of a game to train on."),
    "train": LazyCommand(
        "starflow.cli.train", "train", "Train a VAE, a text encoder, a flow or a LoRA.", distributed=True
    ),
    "evaluate": LazyCommand("starflow.cli.evaluate", "evaluate", "Measure the quality of a model."),
    "rollout": LazyCommand("starflow.cli.rollout", "rollout", "Show what a model makes of a file of actions."),
    "play": LazyCommand("starflow.cli.play", "play", "Play a model in the browser."),
    "serve": LazyCommand("starflow.cli.serve", "serve", "Serve an HTTP API that makes videos."),
    "info": LazyCommand("starflow.cli.info", "info", "Show the size of a model and the memory it needs."),
    "convert": LazyCommand("starflow.cli.convert", "convert", "Convert a released checkpoint to a model folder."),
    "export": LazyCommand("starflow.cli.export", "export", "Write a model as a released checkpoint."),
}


class LazyGroup(click.Group):
    """A click group whose subcommands are the rows of `COMMANDS`, each imported when it is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = COMMANDS[cmd_name]
        if not command.distributed and Rank.of_this_process().size > 1:
            raise UsageError(f"starflow {cmd_name} runs in one process: start it without torchrun")
        return getattr(import_module(command.module), command.attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.short_help) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="starflow")
def cli() -> None:
    """Text to video with a transformer autoregressive normalizing flow."""


def run(args: list[str] | None = None) -> int:
    """Run the command line on `args` (default: those of the process) and return the exit status."""
    debug = os.environ.get("STARFLOW_DEBUG", "") not in ("", "0")
    if not debug:
        quiet_libraries()
    try:
        result: Any = cli.main(args, prog_name="starflow", standalone_mode=False)
        return result if isinstance(result, int) else 0  # click returns the status of an early exit as the result
    except click.ClickException as error:
        error.show()
        if (advice := hint(error)) is not None:
            click.echo(f"Hint: {advice}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("starflow: interrupted", err=True)
        return 130
    except (StarflowError, OSError) as error:
        if debug:
            raise
        click.echo(f"starflow: {_process_name()}error: {one_line(error)}", err=True)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        if debug or (error.name or "starflow").startswith("starflow"):
            raise
        click.echo(f"starflow: {_process_name()}error: {MISSING.format(error.name)}", err=True)
        return 1
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_out_of_memory(error):
            raise
        click.echo(f"starflow: {_process_name()}error: {OUT_OF_MEMORY}", err=True)
        return 1


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the CPU or the GPU has too little memory."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


def one_line(error: BaseException) -> str:
    """The message of an error on a single line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _process_name() -> str:
    """The rank of this process, if torchrun started several; otherwise empty."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    return "" if rank is None or size == "1" else f"process {rank} of {size}: "


def main() -> None:
    """The entry point of the command `starflow`. SIGTERM interrupts it like Ctrl-C, so that it cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    save_cpu_time()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without × is no reason to fail after the work is done
    sys.exit(run())
