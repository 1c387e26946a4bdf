"""The window that is fastest in the deep block on this machine, by the number of videos in a batch.

It depends on the machine: on a CPU, a batch fills the matrices by itself, and a large one is fastest token by token.
`benchmarks/block_sizes.py --store` measures it and writes `windows.json` into the cache folder, which is
`~/.cache/starflow` or the environment's `STARFLOW_CACHE`. Without a measurement, the model's `block_size` holds.
"""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from starflow.errors import StarflowError
from starflow.flow.model import StarFlow
from starflow.media.files import atomic_write


def stored_in() -> Path:
    """The file of all measurements."""
    return Path(os.environ.get("STARFLOW_CACHE", Path.home() / ".cache" / "starflow")) / "windows.json"


def store(flow: StarFlow, windows: Mapping[int, int]) -> None:
    """Store the fastest window of each measured batch size for this machine and models like this one."""
    path = stored_in()
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = _load() | {_key(flow): {str(batch_size): window for batch_size, window in windows.items()}}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def fastest_window(flow: StarFlow, batch_size: int) -> int | None:
    """The window of the largest measured batch that is not larger; None if there is no measurement.

    Raises StarflowError if the file is damaged.
    """
    windows = {int(size): window for size, window in _load().get(_key(flow), {}).items()}
    measured = max((size for size in windows if size <= batch_size), default=None)
    return None if measured is None else windows[measured]


def _load() -> dict[str, dict[str, int]]:
    path = stored_in()
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        raise StarflowError(f"{path} is damaged: delete it") from None


def _key(flow: StarFlow) -> str:
    """What the time of a sweep depends on, in words."""
    weight, transformer = flow.deep.proj_in.weight, flow.deep.transformer
    device = torch.cuda.get_device_name(weight.device) if weight.is_cuda else weight.device.type
    return (
        f"{platform.node()}, {device}, {torch.get_num_threads()} threads, {weight.dtype}, "
        f"{len(transformer.layers)} layers of {weight.shape[0]}"
    )
