"""The facts about a run: the sizes of the model's parts, the machine, the date."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from starflow import __version__
from starflow.pipeline.pipeline import StarFlowPipeline


def count_parameters(pipeline: StarFlowPipeline) -> dict[str, int]:
    """The number of parameters of each part of a model, and the `total`."""
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return counts | {"total": sum(counts.values())}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine that this process runs on; `gpu` is None if the device is the CPU."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "starflow": __version__,
    }


def now() -> str:
    """The date and time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cpu_name() -> str | None:
    """The name of the processor, if the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
