"""Recorded episodes as a source of clips with actions, on which the monsters are marked."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from starflow.data.clip import Clip
from starflow.errors import UsageError
from starflow.worlds.episodes import load_episode, read_about
from starflow.worlds.game import ACTION_SPACE, FPS


@dataclass(frozen=True)
class Episodes:
    """The episodes that `starflow record` wrote to a folder, in the order of their names.

    Raises UsageError if there are none.
    """

    path: str

    action_space = ACTION_SPACE

    def __post_init__(self) -> None:
        if not self.files:
            raise UsageError(f"{self.path} holds no recorded episodes: make them with `starflow record`")

    @cached_property
    def files(self) -> list[Path]:
        return sorted(Path(self.path).glob("*.safetensors"))

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and descriptions, which determine the episodes."""
        digest = hashlib.sha256()
        for file in self.files:
            about = [file.name, str(file.stat().st_size), *(f"{k}={v}" for k, v in sorted(read_about(file).items()))]
            digest.update("\0".join(about).encode())
        return f"episodes {digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Clip:
        """The episode, read from its file. Raises StarflowError if it is damaged."""
        file = self.files[index]
        episode = load_episode(file)
        return Clip(
            episode.frames, FPS, [episode.caption], actions=episode.actions, marks=episode.monsters, name=str(file)
        )
