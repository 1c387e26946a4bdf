"""An index of the clips in tar files, on disk and mapped into memory: millions of clips take no more than a few.

clips.bin       a row for each clip: its shard, its place there, and the place of its texts
texts.bin       the name and the captions of each clip, as JSON
shards.json     the addresses of the shards
left_out.txt    what cannot be used, with the reasons
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype(
    [
        ("shard", np.uint32),
        ("offset", np.uint64),
        ("size", np.uint64),
        ("modified", np.float64),
        ("text", np.uint64),
        ("text_size", np.uint32),
    ]
)


class Member(NamedTuple):
    """A clip in a shard: the address of the shard, its name there, and its bytes."""

    shard: str
    name: str
    offset: int
    size: int
    modified: float
    captions: list[str]


class Content(NamedTuple):
    """The clips of a shard that can be used, and a line with the reason for each that cannot."""

    members: list[Member]
    left_out: list[str]


class TarIndex(Sequence[Member]):
    """The clips of shards. A copy in another process opens the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return TarIndex, (self.folder,)

    @classmethod
    def write(cls, contents: Iterable[Content]) -> "TarIndex":
        """The index of the contents of shards, in a new temporary folder, which the caller removes."""
        folder = Path(tempfile.mkdtemp(prefix="starflow-index-"))
        try:
            _write(contents, folder)
        except BaseException:
            rmtree(folder)
            raise
        return cls(folder)

    def left_out(self) -> list[str]:
        """What cannot be used, each with the reason."""
        return (self.folder / "left_out.txt").read_text(encoding="utf-8").splitlines()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        shard, offset, size, modified, text, text_size = self._rows[index].tolist()
        name, captions = json.loads(self._texts[text : text + text_size].tobytes())
        return Member(self._shards[shard], name, offset, size, modified, captions)

    @cached_property
    def _rows(self) -> NDArray[Any]:
        return self._mapped("clips.bin", ROW)

    @cached_property
    def _texts(self) -> NDArray[np.uint8]:
        return self._mapped("texts.bin", np.dtype(np.uint8))

    @cached_property
    def _shards(self) -> list[str]:
        shards: list[str] = json.loads((self.folder / "shards.json").read_text())
        return shards

    def _mapped(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        path = self.folder / name
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _write(contents: Iterable[Content], folder: Path) -> None:
    shards: dict[str, int] = {}
    with (
        (folder / "clips.bin").open("wb") as clips,
        (folder / "texts.bin").open("wb") as texts,
        (folder / "left_out.txt").open("w", encoding="utf-8", errors="backslashreplace") as left_out,
    ):
        for content in contents:
            for shard, name, offset, size, modified, captions in content.members:
                text = json.dumps([name, captions]).encode()
                number = shards.setdefault(shard, len(shards))
                clips.write(np.array((number, offset, size, modified, texts.tell(), len(text)), ROW).tobytes())
                texts.write(text)
            left_out.writelines(f"{line}\n" for line in content.left_out)
    (folder / "shards.json").write_text(json.dumps(list(shards)))
