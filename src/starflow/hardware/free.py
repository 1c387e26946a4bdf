"""How much memory is free."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int | None:
    """Free bytes on a device; None if this is not known."""
    if device.type == "cpu":
        return _free_on_this_machine()
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def _free_on_this_machine() -> int:
    """Free bytes of the machine, or of the container (control group v2 of Linux) that limits this process."""
    free = psutil.virtual_memory().available
    try:
        limit, current = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or no limit
        return free
    return min(free, limit - current + int(statistics["inactive_file"]))
