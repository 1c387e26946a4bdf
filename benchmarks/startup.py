"""The seconds that commands take to start, and the imports that take most of them (Linux and macOS).

    python benchmarks/startup.py [--repeats 5]

Each command runs in a process of its own, on the bundled model. The first table shows medians: CPU seconds until the
process has ended, wall seconds, and wall seconds to the first output. The second shows the packages whose modules take
longest to import in `starflow generate`. These figures are from `python -X importtime`, which makes imports slower.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import harness

COMMANDS = {  # the arguments of Python
    "python": ("-c", "pass"),
    "import torch": ("-c", "import torch"),
    "import starflow": ("-c", "import starflow"),
    "starflow --help": ("-m", "starflow", "--help"),
    "starflow info toyworld": ("-m", "starflow", "info", "toyworld"),
}
GENERATE = ("-m", "starflow", "generate", "a red circle moves right", "--device", "cpu", "-o")
IMPORT_LINE = re.compile(r"import time:\s+(?P<self>\d+) \|\s+\d+ \|\s+(?P<package>\w+)")
NUM_PACKAGES = 12


class Seconds(NamedTuple):
    """What a process takes: CPU and wall seconds, and wall seconds to its first output, or to its end without one."""

    cpu: float
    wall: float
    first_output: float


def measure(arguments: Sequence[str]) -> Seconds:
    """Run Python once. Raises CalledProcessError if it fails."""
    command = [sys.executable, *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.read(1)
    first_output = time.perf_counter() - start
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Seconds(usage.ru_utime + usage.ru_stime, wall, first_output)


def import_seconds(arguments: Sequence[str]) -> Counter[str]:
    """Run Python once; the seconds that each package takes to import, without those of other packages."""
    command = [sys.executable, "-X", "importtime", *arguments]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    seconds: Counter[str] = Counter()
    for line in lines:
        if match := IMPORT_LINE.match(line):
            seconds[match["package"]] += int(match["self"]) / 1e6  # type: ignore[assignment]
    return seconds


def main() -> None:
    """Print both tables."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--repeats", type=harness.positive, default=5, help="processes for each median")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        generate = (*GENERATE, f"{folder}/clip.mp4")
        print(f"{'':24}{'CPU, s':>8}{'wall, s':>9}{'first output, s':>17}")
        for name, command in (COMMANDS | {"starflow generate": generate}).items():
            runs = [measure(command) for _ in range(repeats)]
            cpu, wall, first_output = (median(column) for column in zip(*runs, strict=True))
            print(f"{name:24}{cpu:>8.2f}{wall:>9.2f}{first_output:>17.2f}", flush=True)
        imports = import_seconds(generate)
    print(f"\n{'package':24}{'import, s':>10}")
    for package, seconds in imports.most_common(NUM_PACKAGES):
        print(f"{package:24}{seconds:>10.2f}")


if __name__ == "__main__":
    harness.run(main)
