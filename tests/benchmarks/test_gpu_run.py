"""The run on a GPU machine: whatever a stage does, its figures are kept and the others run; all of it on the CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import report
from measure import Results, StageMeter, median_ms
from run import BUDGET, STAGES, Run, Stage
from stages import graphs

ROOT = Path(__file__).parents[2]
WRITE = 'import sys, time; from pathlib import Path; Path(sys.argv[-1]).write_text(\'{"rows": [1], "failed": []}\'); '


def run_of(tmp_path: Path, budget: float = 60) -> Run:
    (tmp_path / "work").mkdir()
    return Run(tmp_path / "out", tmp_path / "work", tiny=True, budget=budget)


def do(run: Run, name: str, code: str, limit: float = 30) -> dict:
    run.do(Stage(name, limit, 0), [sys.executable, "-c", code])
    return json.loads((run.out / "results.json").read_text())["stages"][name]


def test_a_stage_that_fails_or_hangs_leaves_its_figures_and_the_others(tmp_path: Path):
    run = run_of(tmp_path)
    fails = do(run, "fails", WRITE + "print('something said'); sys.exit(3)")
    assert (fails["status"], fails["rows"]) == ("failed with exit status 3", [1])
    start = time.monotonic()
    hangs = do(run, "hangs", WRITE + "time.sleep(600)", limit=2)
    assert time.monotonic() - start < 20
    assert (hangs["status"], hangs["rows"]) == ("timed out after 2 s", [1])
    assert do(run, "says nothing", "")["rows"] == []
    weights = "Path(sys.argv[-1]).with_name('flow.safetensors').write_bytes(b'weights')"
    assert do(run, "brings weights back", WRITE + weights)["status"] == "finished"
    assert (run.out / "flow.safetensors").read_bytes() == b"weights"
    (run.out / "flow.safetensors").unlink()
    assert do(run, "works", WRITE)["status"] == "finished"
    assert sorted(path.name for path in run.out.iterdir()) == ["log.txt", "results.json"]
    log = (run.out / "log.txt").read_text()
    assert "something said" in log
    assert log.count("=====") == 5
    assert json.loads((run.out / "results.json").read_text())["stages"]["fails"] == fails


def test_what_a_stage_started_ends_with_it(tmp_path: Path):
    child = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); "
    run = run_of(tmp_path)
    do(run, "starts another", child + "time.sleep(600)", limit=2)
    pid = int((run.work / "starts another.log").read_text())
    for _ in range(50):  # until the system has cleared it away
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_no_stage_starts_without_time_left(tmp_path: Path):
    assert do(run_of(tmp_path, budget=0.5), "late", WRITE)["status"] == "skipped: no time was left"


def test_the_limits_are_within_nine_minutes():
    assert BUDGET < 9 * 60
    assert [stage.name for stage in STAGES[-2:]] == ["training", "improve"]
    assert BUDGET - sum(stage.limit for stage in STAGES[:-2]) >= 90
    assert all(stage.predicted <= stage.limit for stage in STAGES)
    assert sum(stage.predicted for stage in STAGES) < BUDGET
    assert all((ROOT / f"benchmarks/gpu/stages/{stage.name}.py").is_file() for stage in STAGES)


def test_figures_are_on_disk_at_once_and_survive_failures(tmp_path: Path):
    path = tmp_path / "stage.json"
    results = Results(path, torch.device("cpu"))
    results.add("numbers", value=1)
    assert json.loads(path.read_text())["rows"] == [{"table": "numbers", "value": 1}]
    with results.attempt("division"):
        results.add("numbers", value=1 / 0)
    results.add("numbers", value=2)
    written = json.loads(path.read_text())
    assert [row["value"] for row in written["rows"]] == [1, 2]
    assert written["failed"] == [{"what": "division", "error": "ZeroDivisionError: division by zero"}]


def test_the_clock_is_a_median_without_the_first_time():
    naps = iter([0.2, 0.01, 0.1, 0.01])
    assert 9 < median_ms(lambda: time.sleep(next(naps)), torch.device("cpu"), repeats=3) < 60


def test_a_stage_that_waits_for_another_is_not_charged_for_it():
    def inner():
        for _ in range(2):
            time.sleep(0.05)
            yield

    def outer(items):
        for _ in items:
            time.sleep(0.01)
            yield

    meter = StageMeter(torch.device("cpu"))
    for _ in meter.during("outer", outer(meter.during("inner", inner()))):
        time.sleep(0.02)  # belongs to no stage
    assert meter.seconds["inner"] >= 0.1
    assert 0.02 <= meter.seconds["outer"] < meter.seconds["inner"]
    assert meter.peaks == {"inner": 0, "outer": 0}


def test_a_sweep_of_fixed_shapes_computes_what_a_sweep_does(tmp_path: Path):
    results = Results(tmp_path / "graphs.json", torch.device("cpu"))
    graphs.measure(results, tiny=True)
    assert not results.failed
    (row,) = results.rows
    assert row["difference"] < 1e-4
    assert min(row["launched_ms"], row["graph_ms"]) > 0


@pytest.mark.slow
def test_all_of_it_with_tiny_models(tmp_path: Path):
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": ""}
    command = ["bash", str(ROOT / "benchmarks/gpu/run.sh"), str(tmp_path / "out"), "--tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    tables = {row["table"] for stage in results["stages"].values() for row in stage["rows"]}
    assert tables == {
        *("machine", "ceilings", "tests", "works", "stages", "sampled", "one by one", "memory", "images", "clips"),
        *("first frame", "graphs", "training", "bundled training", "pace of the improvement", "improvement"),
    }
    assert [stage["failed"] for stage in results["stages"].values()] == [[]] * len(STAGES)
    outcomes = [row["outcome"] for row in results["stages"]["checks"]["rows"]]
    assert outcomes.count("passed") == len(outcomes) > 80
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu/report.py"), str(tmp_path / "out"), "-o", str(tmp_path / "page")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=True,
    )
    page = (tmp_path / "page/gpu.md").read_text()
    assert report.ON_CPU in page
    assert "No run has been made" not in page
    assert "What failed" not in page
    for picture in ("gpu-sweeps.png", "gpu-memory.png"):
        assert f"]({picture})" in page
        assert (tmp_path / "page" / picture).read_bytes().startswith(b"\x89PNG")
