"""The machine, and what it can do: the rates that other figures are held against."""

import os
import platform

import psutil
import torch

from measure import Results, median_ms

GIB = 2**30


def measure(results: Results, tiny: bool) -> None:
    """Name the card; time a matrix product, a copy on the device, one from the host, and the launch of an operation."""
    device = results.device
    is_cuda = device.type == "cuda"
    results.add(
        "machine",
        card=torch.cuda.get_device_name(device) if is_cuda else None,
        card_gib=torch.cuda.mem_get_info(device)[1] / GIB if is_cuda else None,
        cores=os.cpu_count(),
        host_gib=psutil.virtual_memory().total / GIB,
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
    )
    side = 256 if tiny else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    matrix_rate = 2 * side**3 / (median_ms(lambda: a @ b, device, 20) / 1000)
    source = torch.randint(0, 255, (2**20 if tiny else 4 * GIB,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / (median_ms(lambda: target.copy_(source), device, 20) / 1000)
    host = torch.empty(source.nbytes // 4, dtype=torch.uint8, pin_memory=is_cuda)
    part = target[: host.nbytes]
    from_host = host.nbytes / (median_ms(lambda: part.copy_(host, non_blocking=True), device) / 1000)
    small, operations = torch.zeros(8, device=device), 1000

    def launches() -> None:
        for _ in range(operations):
            small.add_(1)

    launch = median_ms(launches, device) / 1000 / operations
    results.add("ceilings", matrix_rate=matrix_rate, bandwidth=bandwidth, from_host=from_host, launch=launch)
