"""`starflow rollout`: what a model shows after given actions."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from starflow.cli.common import SEED, device_options, load_pipeline, start_loading
from starflow.cli.starts import check_start, load_starts, start_options
from starflow.errors import UsageError
from starflow.media.files import SOFTWARE

if TYPE_CHECKING:
    from starflow.flow.actions import ActionSpace
    from starflow.media.frames import Frame
    from starflow.pipeline.session import Session


@click.command()
@click.argument("model")
@click.option(
    "--actions", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="The file."
)
@click.option("-o", "--output", required=True, help="A clip, such as clip.mp4.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the noise.")
@start_options
@device_options
def rollout(
    model: str,
    path: Path,
    output: str,
    seed: int,
    name: str | None,
    prompt: str | None,
    image: Path | None,
    clip: Path | None,
    device: str | None,
    dtype: str,
) -> None:
    """Write the clip that MODEL shows after the actions of a file, beginning with the last frame of the start.

    Each line of the file is an action: its numbers, with spaces or commas between them. `starflow info MODEL` shows
    which there are. A model that compresses time makes several frames for each action.

    \b
    starflow rollout runs/freedoom-flow/final --actions actions.txt --clip start.mp4 -o clip.mp4
    """
    check_start(name, image, clip)
    actions = read_actions(path)
    start_loading(model)

    import torch
    from tqdm import tqdm

    from starflow.media.video import check_writable, write_frames
    from starflow.pipeline.actions import require_action_space

    check_writable(output)
    pipeline = load_pipeline(model, device, dtype)
    check_actions(require_action_space(pipeline.flow), actions, path)
    start = load_starts(pipeline, model, name, prompt, image, clip)[0]
    session = start.session(pipeline, generator=torch.Generator().manual_seed(seed))
    num_frames = 1 + len(actions) * session.frames_per_step
    metadata = {"software": SOFTWARE, "model": model, "dtype": dtype, "prompt": start.prompt, "seed": seed}
    metadata |= {"start": start.name, "actions": str(path)}
    with tqdm(actions.values(), unit="action", leave=False, disable=None) as bar:
        write_frames(output, _frames(session, bar), num_frames, session.fps, metadata)


def _frames(session: "Session", actions: Iterable[list[float]]) -> "Iterator[Frame]":
    yield from session.frames
    for action in actions:
        yield from session.step(action)


def read_actions(path: Path) -> dict[int, list[float]]:
    """The actions of a file by the number of their line. Empty lines are left out.

    Raises UsageError if a line is not numbers, or there is none.
    """
    actions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            if values := [float(word) for word in line.replace(",", " ").split()]:
                actions[number] = values
        except ValueError:
            raise UsageError(f"{path}, line {number}: an action is numbers such as 0 1, not {line!r:.60}") from None
    if not actions:
        raise UsageError(f"{path} holds no actions: write one on each line")
    return actions


def check_actions(space: "ActionSpace", actions: dict[int, list[float]], path: Path) -> None:
    """Raise UsageError, which names the line, for the first that is no action of the model."""
    for number, action in actions.items():
        where = f"{path}, line {number}"
        if len(action) != space.num_components:
            raise UsageError(f"{where}: an action of this model has {space.num_components} numbers, not {len(action)}")
        try:
            space.check([action], 1)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
