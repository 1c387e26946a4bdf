"""Run all stages, each in its own process and within its own time limit, and join what they measured.

    python benchmarks/gpu/run.py OUT [--tiny] [--stages NAME,NAME,…]

`OUT/results.json` holds every figure, `OUT/log.txt` everything that was printed. Both are rewritten while the stages
run, so that they hold what there is whenever the run is cut short. Weights that a stage brings back come beside them.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starflow.media.files import atomic_write

BUDGET = 530  # seconds for all stages
LEAST = 10  # seconds, without which no stage is started
LOG_BYTES = 1_000_000  # of each stage that are kept, its last
EVERY = 0.5  # seconds between two looks at a stage
TINY_SLACK = 5  # times as long as on a GPU, for a CPU that may be busy


@dataclass(frozen=True)
class Stage:
    """A module in `stages`, the seconds that it may take, and those that it is predicted to take on a GPU."""

    name: str
    limit: float
    predicted: float


# In order of value. Whatever the others take, `training` gets at least 90 seconds, and `improve` what is left.
STAGES = (
    Stage("ceilings", 20, 10),
    Stage("checks", 75, 60),
    Stage("video", 75, 50),
    Stage("memory", 90, 85),
    Stage("samples", 60, 45),
    Stage("image", 30, 20),
    Stage("bundled", 60, 50),
    Stage("graphs", 20, 15),
    Stage("training", 150, 80),
    Stage("improve", 150, 100),
)


class Run:
    """The stages' states and files, and the two files that hold them all."""

    def __init__(self, out: Path, work: Path, tiny: bool, budget: float) -> None:
        self.out, self.work, self.tiny = out, work, tiny
        self.end = time.monotonic() + budget
        self.date = datetime.now(UTC).isoformat(timespec="seconds")
        self.states: dict[str, dict[str, Any]] = {}

    def do(self, stage: Stage, command: Sequence[str]) -> None:
        """Run a stage to its end or to its limit; `command` takes the limit and the path of its JSON file."""
        limit = min(stage.limit, self.end - time.monotonic())
        if limit < min(LEAST, stage.limit):
            self._note(stage, "skipped: no time was left", 0)
            return
        start = time.monotonic()
        with (self.work / f"{stage.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--limit={limit:.0f}", str(self.work / f"{stage.name}.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            while process.poll() is None and time.monotonic() < start + limit:
                time.sleep(EVERY)
                self._note(stage, "running", time.monotonic() - start)
            timed_out = process.poll() is None
            _end(process)
        for weights in self.work.glob("*.safetensors"):
            shutil.move(weights, self.out / weights.name)
        status = f"timed out after {limit:.0f} s" if timed_out else _status(process.returncode)
        self._note(stage, status, time.monotonic() - start)

    def _note(self, stage: Stage, status: str, seconds: float) -> None:
        self.states[stage.name] = {"status": status, "seconds": round(seconds, 1), "limit": stage.limit}
        self._join()

    def _join(self) -> None:
        stages = {name: state | self._figures(name) for name, state in self.states.items()}
        results = {"date": self.date, "tiny": self.tiny, "stages": stages}
        with atomic_write(self.out / "results.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        with atomic_write(self.out / "log.txt") as temporary:
            temporary.write_text("".join(map(self._log, self.states)), encoding="utf-8")

    def _figures(self, name: str) -> dict[str, Any]:
        path = self.work / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": [], "failed": []}

    def _log(self, name: str) -> str:
        path = self.work / f"{name}.log"
        text = path.read_bytes()[-LOG_BYTES:].decode(errors="replace") if path.exists() else ""
        return f"===== {name}: {self.states[name]['status']}\n{text}\n"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(code: int) -> str:
    return "finished" if code == 0 else f"failed with exit status {code}"


def run(out: Path, stages: Sequence[Stage], tiny: bool = False, budget: float = BUDGET) -> dict[str, dict[str, Any]]:
    """Run stages one after the other; returns the state of each, as `results.json` has it without figures."""
    script = Path(__file__).with_name("stage.py")
    with tempfile.TemporaryDirectory() as work:
        state = Run(out, Path(work), tiny, budget)
        for stage in stages:
            options = ["--tiny"] if tiny else []
            state.do(stage, [sys.executable, str(script), stage.name, *options])
            print(_line(stage, state), flush=True)
    return state.states


def _line(stage: Stage, run: Run) -> str:
    state, figures = run.states[stage.name], run._figures(stage.name)
    failed = "".join(f"\n    failed: {each['what']}: {each['error']}" for each in figures["failed"])
    line = f"{stage.name:10}{state['seconds']:>7.1f} s  {len(figures['rows']):>4} figures  {state['status']}{failed}"
    if state["status"] != "finished" and not failed:
        line += "".join(f"\n    {each}" for each in run._log(stage.name).splitlines()[-5:])
    return line


def main() -> None:
    """Run all stages; the exit status is 0 if each has finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for results.json and log.txt")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU, to prove that all of it runs")
    names = ",".join(stage.name for stage in STAGES)
    parser.add_argument("--stages", default=names, help=f"those to run again after a change; all are {names}")
    arguments = parser.parse_args()
    if unknown := set(asked := arguments.stages.split(",")) - set(names.split(",")):
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}; choose from {names}")
    slack = TINY_SLACK if arguments.tiny else 1
    stages = [replace(stage, limit=slack * stage.limit) for stage in STAGES if stage.name in asked]
    states = run(arguments.out, stages, arguments.tiny, slack * BUDGET)
    sys.exit(any(state["status"] != "finished" for state in states.values()))


if __name__ == "__main__":
    main()
