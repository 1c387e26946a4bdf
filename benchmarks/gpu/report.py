"""The page of the GPU's figures, beside what was predicted.

    python benchmarks/gpu/report.py [RESULTS] [-o docs]

`RESULTS` is the folder with the results of one run or more, by default `benchmarks/gpu/results`. Of each
stage the page has the latest. Without results the page says so, and has the predictions alone. Writes `gpu.md` and its
pictures.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import predictions
import sections
from run import BUDGET, STAGES
from starflow.media.files import atomic_write

HERE = Path(__file__).parent

INTRODUCTION = """# On a GPU

`benchmarks/gpu/run.sh` takes at most 9 minutes on a machine with one NVIDIA GPU. It runs the tests that need a GPU, and
measures the released models' configurations with random weights, the bundled model, and training.
`python benchmarks/gpu/report.py` writes this page from the results. [How to run it](../benchmarks/gpu/README.md).
"""
NO_RUN = """
**No run has been made yet.** All figures below are predictions, written down before any run so that they can be
compared with what comes out. They come from counted operations and bytes, with {rate:.0f} TFLOP/s and
{bandwidth:.1f} TB/s (60 % and 80 % of what an H100 reaches) and {launch:.0f} µs to launch an operation, and from the
memory that `starflow info` computes.
"""
RUN = """
Measured on {card}, {cores} cores, torch {torch}, CUDA {cuda}, Python {python}; {date}.
A matrix product in bfloat16 reaches {rate:.3g} TFLOP/s, a copy on the device {bandwidth:.2f} TB/s (bytes read and
written), one from the host {from_host:.1f} GB/s, and launching an operation takes {launch:.1f} µs.
What had been predicted stands in brackets.
"""


ON_CPU = "no GPU: tiny models on the CPU, whose figures prove the run and nothing else"


class Run:
    """Results and predictions, by table."""

    def __init__(self, results: dict[str, Any] | None, predicted: dict[str, Any]) -> None:
        self.results, self.predicted = results, predicted

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The measured rows of a table; none without results."""
        stages = self.results["stages"] if self.results else {}
        return [row for stage in stages.values() for row in stage["rows"] if row["table"] == table]

    def only(self, table: str) -> dict[str, Any]:
        """The single row of a table; empty if it was not measured."""
        return next(iter(self.rows(table)), {})


def page(run: Run) -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION, _headline(run), _time(run)]
    parts += [section(run) for section in sections.SECTIONS]
    return "\n".join(part.strip() + "\n" for part in parts if part)


def _headline(run: Run) -> str:
    if run.results is None:
        assumed = run.predicted["assumed"]
        return NO_RUN.format(
            rate=assumed["matrix_rate"] / 1e12, bandwidth=assumed["bandwidth"] / 1e12, launch=assumed["launch"] * 1e6
        )
    machine, ceilings = run.only("machine"), run.only("ceilings")
    if not ceilings:
        return f"Run of {run.results['date']}, whose first stage failed: neither the card nor its rates are known."
    return RUN.format(
        card=f"{machine['card']} ({machine['card_gib']:.0f} GiB)" if machine["card"] else ON_CPU,
        **{name: machine[name] for name in ("cores", "torch", "cuda", "python")},
        date=run.results["date"],
        rate=ceilings["matrix_rate"] / 1e12,
        bandwidth=ceilings["bandwidth"] / 1e12,
        from_host=ceilings["from_host"] / 1e9,
        launch=ceilings["launch"] * 1e6,
    )


def _time(run: Run) -> str:
    """What each stage took, and what failed."""
    states = run.results["stages"] if run.results else {}
    rows = []
    for stage in STAGES:
        state = states.get(stage.name, {"status": "", "seconds": None, "failed": []})
        date = state.get("date", "")[:16].replace("T", " ")
        rows.append([stage.name, stage.predicted, stage.limit, state["seconds"], state["status"], date])
    total = sum(state["seconds"] for state in states.values()) if states else None
    rows.append(["all", sum(s.predicted for s in STAGES), BUDGET, total, "", ""])
    header = ["stage", "predicted, s", "limit, s", "took, s", "status", "run (UTC)"]
    text = "## The run\n\n" + sections.table(header, rows)
    failed = [f"* {name}: {each['what']}: {each['error']}" for name, s in states.items() for each in s["failed"]]
    return text + ("\nWhat failed:\n\n" + "\n".join(failed) + "\n" if failed else "")


def load(folder: Path) -> Run:
    """The runs in a folder as one, or none: of each stage the latest run that has it and was not cut short in it."""
    runs = sorted((json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")), key=_date)
    if not runs:
        return Run(None, predictions.load(tiny=False))
    stages: dict[str, Any] = {}
    for run in runs:
        for name, stage in run["stages"].items():
            if name not in stages or stage["status"] != "running":
                stages[name] = stage | {"date": _date(run)}
    return Run(runs[-1] | {"stages": stages}, predictions.load(runs[-1]["tiny"]))


def _date(run: dict[str, Any]) -> str:
    return run["date"]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=HERE / "results")
    parser.add_argument("-o", "--output", type=Path, default=HERE.parents[1] / "docs", help="folder for the page")
    arguments = parser.parse_args()
    run = load(arguments.results)
    with atomic_write(arguments.output / "gpu.md") as temporary:
        temporary.write_text(page(run), encoding="utf-8")
    if run.results is not None:
        draw_all(run, arguments.output)


def draw_all(run: Run, folder: Path) -> None:
    """The pictures of a page with results."""
    import pictures

    drawings: dict[str, Callable[[Run], Any]] = {
        sections.SWEEPS_PICTURE: pictures.draw_sweeps,
        sections.MEMORY_PICTURE: pictures.draw_memory,
    }
    for name, draw in drawings.items():
        with atomic_write(folder / name) as temporary:
            draw(run).savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    main()
