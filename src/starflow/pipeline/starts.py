"""Where a session can start: clips that come with a model, in the folder `starts` of its files.

A start is a safetensors file with the tensor `frames`, uint8 `(F, height, width, 3)`, and for a model that takes
actions `actions` `(F, A)`, of which the first is ignored. Its header may have a `caption`. Episodes of
`starflow record` are such files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from starflow.errors import StarflowError, UsageError
from starflow.media.frames import Frames

if TYPE_CHECKING:
    from starflow.pipeline.pipeline import StarFlowPipeline
    from starflow.pipeline.session import Session

FOLDER = "starts"


@dataclass(frozen=True)
class Start:
    """The first frames of a session, what the player did in them, and the caption.

    Attributes:
        name: for people.
        prompt: the caption; empty for none.
        frames: uint8 `(F, height, width, 3)`; None if the session makes its first frame itself.
        actions: `(F, A)`; None if they are not known.
    """

    name: str
    prompt: str = ""
    frames: Frames | None = None
    actions: NDArray[Any] | None = None

    def session(self, pipeline: "StarFlowPipeline", **options: Any) -> "Session":
        """A session that starts here. `options` are those of `StarFlowPipeline.session`, which raises."""
        if self.frames is not None:
            options |= {"clip": self.frames, "actions": self.actions}
        return pipeline.session(self.prompt, **options)


def load_start(path: Path) -> Start:
    """Read a file. Raises StarflowError if it is none of a start, or is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            names, about = set(file.keys()), file.metadata() or {}
            frames: NDArray[Any] = file.get_tensor("frames") if "frames" in names else np.zeros(0)
            actions = file.get_tensor("actions") if "actions" in names else None
    except (SafetensorError, OSError) as error:
        raise StarflowError(f"cannot read the start {path}: {error}") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise StarflowError(f"{path} is no start: it needs frames, uint8 (F, height, width, 3)")
    return Start(path.stem, about.get("caption", ""), frames, actions)


def starts_of(folder: str | Path) -> list[Path]:
    """The files of a model's starts, by name; empty if it has none, or is not in a local folder."""
    return sorted(Path(folder, FOLDER).glob("*.safetensors"))


def find_start(folder: str | Path, name: str) -> Path:
    """The file of the start with this name, or with this path. Raises UsageError if there is none."""
    if Path(name).is_file():
        return Path(name)
    paths = {path.stem: path for path in starts_of(folder)}
    if name not in paths:
        known = ", ".join(paths) or "none"
        raise UsageError(f"there is no file and no start {name!r}: the starts of this model are {known}")
    return paths[name]
