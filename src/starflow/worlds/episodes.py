"""Episodes of a game: played, replayed, and saved to files.

A file `SCENARIO-SEED.safetensors` has the tensors of an `Episode`, and in its header what they were made with.

Legend: `F` frames, `A` components of an action.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from starflow.errors import StarflowError
from starflow.media.files import atomic_write
from starflow.media.frames import Frames
from starflow.worlds.game import SCENARIOS, Action, Game, View
from starflow.worlds.policies import POLICIES, Policy

FORMAT = "starflow episode 1"
TENSORS = ("frames", "actions", "monsters", "poses")


@dataclass(frozen=True)
class Episode:
    """What was seen and done.

    Attributes:
        scenario, seed: with the actions, they determine everything else.
        policy: of the player, a name in `POLICIES`; empty for a replay.
        caption: the place, and what happens.
        frames: uint8 `(F, 64, 64, 3)`.
        actions: uint8 `(F, A)`; that of a frame led to it, and the first row is zero.
        monsters: uint8 `(F, 64, 64)`, as in `View`.
        poses: float32 `(F, 3)`: `x`, `y` and the angle in degrees.
    """

    scenario: str
    seed: int
    policy: str
    caption: str
    frames: Frames
    actions: NDArray[np.uint8]
    monsters: NDArray[np.uint8]
    poses: NDArray[np.float32]


def record(game: Game, seed: int, policy: str, max_frames: int) -> Episode:
    """Play the episode of a seed with a policy, at most `max_frames` frames of it."""
    choose = POLICIES[policy](np.random.default_rng(seed), game.buttons)
    return _play(game, seed, policy, choose, max_frames)


def record_missing(scenario: str, folder: str | PathLike[str], seeds: range, max_frames: int) -> tuple[int, int]:
    """Record the episodes of some seeds whose files are missing in a folder. The policies take turns.

    Returns the number of new episodes and of their frames.
    """
    missing = [seed for seed in seeds if not episode_path(folder, scenario, seed).exists()]
    num_frames, policies = 0, list(POLICIES)
    with Game(scenario) as game:
        for seed in tqdm(missing, unit="episode", leave=False, disable=None):
            episode = record(game, seed, policies[seed % len(policies)], max_frames)
            save_episode(episode, folder)
            num_frames += len(episode.frames)
    return len(missing), num_frames


def replay(game: Game, seed: int, actions: NDArray[Any]) -> Episode:
    """The episode of a seed with given actions `(F, A)`, of which the first row is ignored: what would have been seen.

    With the actions of a recorded episode, it is the recorded one. If they differ from some frame on, it is the same up
    to there. It ends early if the episode does. One thing may differ: the flash of the weapon comes a frame earlier or
    later in some episodes, depending on what the game played before.
    """
    following = iter([Action(*map(int, row)) for row in actions[1:]])
    return _play(game, seed, "", lambda view: next(following), len(actions))


def _play(game: Game, seed: int, policy: str, choose: Policy, max_frames: int) -> Episode:
    view: View | None = game.reset(seed)
    views: list[View] = []
    actions = [Action()]
    while view is not None:
        views.append(view)
        if len(views) == max_frames:
            break
        actions.append(choose(view))
        view = game.step(actions[-1])
    actions = actions[: len(views)]
    return Episode(
        game.scenario,
        seed,
        policy,
        describe(game.scenario, views, actions),
        np.stack([each.picture for each in views]),
        np.array(actions, np.uint8),
        np.stack([each.monsters for each in views]),
        np.array([each.pose for each in views], np.float32),
    )


def describe(scenario: str, views: list[View], actions: list[Action]) -> str:
    """A caption: the place, what the player does often, and what comes of it."""
    each = np.array(actions)
    done = [
        words
        for words, share in (
            ("moves", (each[:, 0] > 0).mean()),
            ("turns", (each[:, 1] > 0).mean()),
            ("shoots", (each[:, 2] > 0).mean()),
        )
        if share > 0.1
    ]
    events = [f"the player {' and '.join(done) or 'waits'}"]
    if views[-1].kills > views[0].kills:
        events.append("a monster is killed")
    if views[-1].health < views[0].health:
        events.append("the player is hurt")
    return f"{SCENARIOS[scenario]}: {', '.join(events)}"


def episode_path(folder: str | PathLike[str], scenario: str, seed: int) -> Path:
    """The file of an episode in a folder."""
    return Path(folder, f"{scenario}-{seed:06d}.safetensors")


def save_episode(episode: Episode, folder: str | PathLike[str]) -> Path:
    """Write an episode to its file in a folder."""
    path = episode_path(folder, episode.scenario, episode.seed)
    about = {name: str(getattr(episode, name)) for name in ("scenario", "seed", "policy", "caption")}
    with atomic_write(path) as temporary:
        save_file({name: getattr(episode, name) for name in TENSORS}, temporary, {"format": FORMAT} | about)
    return path


def read_about(path: Path) -> dict[str, str]:
    """What a file says about its episode. Raises StarflowError if it is no such file, or is damaged."""
    with _open(path) as file:
        return file.metadata()


def load_episode(path: Path) -> Episode:
    """Read a file of `save_episode`. Raises StarflowError if it is no such file, or is damaged."""
    with _open(path) as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in TENSORS}
    return Episode(about["scenario"], int(about["seed"]), about["policy"], about["caption"], **tensors)


def _open(path: Path) -> Any:
    try:
        file = safe_open(path, framework="numpy")
        if (file.metadata() or {}).get("format") != FORMAT or not {*TENSORS} <= {*file.keys()}:
            raise StarflowError(f"{path} is no recorded episode: make such files with `starflow record`")
    except (SafetensorError, OSError) as error:
        raise StarflowError(f"cannot read the episode {path}: {error}") from error
    return file
