"""`starflow record`: episodes of a game, which are clips with actions."""

from pathlib import Path

import click


@click.command()
@click.argument("scenario")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder of the episodes.")
@click.option("--episodes", type=click.IntRange(1), default=100, show_default=True, help="Number of episodes.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first; the next count up."
)
@click.option("--max-frames", type=click.IntRange(2), default=128, show_default=True, help="Frames of each, at most.")
def record(scenario: str, output: Path, episodes: int, seed: int, max_frames: int) -> None:
    """Record SCENARIO, which is basic, take_cover or defend_the_center, with 8.75 frames of 64×64 pixels per second.

    Three players take turns: one presses other buttons in each frame, one holds them for some frames, and one aims at
    monsters. An episode is determined by the scenario, its seed and the number of frames. Those whose files exist are
    not played again.

    \b
    starflow record basic -o episodes/train --episodes 300
    starflow record basic -o episodes/test --episodes 30 --seed 100000
    """
    from starflow.worlds.episodes import record_missing

    num_episodes, num_frames = record_missing(scenario, output, range(seed, seed + episodes), max_frames)
    click.echo(f"{output}: {num_episodes} new episodes of {scenario}, {num_frames} frames")
