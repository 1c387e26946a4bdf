"""Lists on disk, mapped into memory: millions of items take no more memory than a few."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, Generic, TypeVar
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")


class DiskList(Sequence[Item], Generic[Item]):
    """Items in a temporary folder, which is removed with the list. A copy in another process reads the same files.

    Args:
        values: of the items, as JSON in which paths are texts. They are written one by one.
        load: makes an item of its value.
    """

    def __init__(self, values: Iterable[Any], load: Callable[[Any], Item]) -> None:
        self.folder, self.load = Path(tempfile.mkdtemp(prefix="starflow-list-")), load
        finalize(self, rmtree, self.folder)
        with (self.folder / "values.json").open("wb") as texts, (self.folder / "places.bin").open("wb") as places:
            places.write(np.uint64(0).tobytes())
            for value in values:
                texts.write(json.dumps(value, default=os.fspath).encode())
                places.write(np.uint64(texts.tell()).tobytes())

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "load": self.load}

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, index: Any) -> Any:
        numbers = range(len(self))[index]
        return [self._item(number) for number in numbers] if isinstance(index, slice) else self._item(numbers)

    def _item(self, number: int) -> Item:
        start, end = self._places[number : number + 2].tolist()
        return self.load(json.loads(self._texts[start:end].tobytes()))

    @cached_property
    def _places(self) -> NDArray[np.uint64]:
        """Where each value begins, and where the last one ends."""
        return np.memmap(self.folder / "places.bin", np.uint64, "r")

    @cached_property
    def _texts(self) -> NDArray[np.uint8]:
        return np.memmap(self.folder / "values.json", np.uint8, "r")


class Listing(Generic[Item]):
    """What a source consists of, and what it leaves out.

    Args:
        found: what is used, whose values are JSON but no texts; and a line with the reason for what is not used.
        load: makes an item of its value.

    Attributes:
        items: what is used, on disk.
        left_out: the lines, in memory.
    """

    def __init__(self, found: Iterable[Item | str], load: Callable[[Any], Item]) -> None:
        self.left_out: list[str] = []
        self.items = DiskList(self._used(found), load)

    def _used(self, found: Iterable[Item | str]) -> Iterator[Item]:
        for each in found:
            if isinstance(each, str):
                self.left_out.append(each)
            else:
                yield each
