"""What the page of the GPU run is made of: counted costs, the projection, predictions and sections."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import predictions
import report
from flow_clock import time_works
from measure import Results
from models import architecture_of, pipeline_of
from projection import SHALLOW_BLOCKS, project
from starflow.flow.model import StarFlow
from starflow.hardware.memory import GIB, IN_FLIGHT
from works import (
    ASSUMED,
    CLIP_FRAME_TOKENS,
    CLIP_FRAMES,
    Ceilings,
    Cost,
    Work,
    cost_of,
    image_works,
    predicted_ms,
    video_works,
)

ROOT = Path(__file__).parents[2]


@torch.no_grad()
def test_counted_flops_are_those_of_the_block():
    flow: StarFlow = architecture_of("video", tiny=True).flow
    work = Work("video", "sweep", "deep", 2, 1, 30)
    text = torch.empty(1, 8, 64, device="meta")
    gaussians = flow.conditional(flow.num_blocks - 1, 1, (3, 4, 6), text, text, 3.5)
    gaussians.cache.length = 8 + 30
    v = torch.empty(1, 72, 16, device="meta")
    with FlopCounterMode(display=False) as counter:
        gaussians.evaluate(v, 30, 31)
    ends = 2 * 16 * 128 + 2 * 2 * 128 * 32  # the first matrix and the last, in both branches, are left out
    assert counter.get_total_flops() - ends == pytest.approx(cost_of(work, flow, 8).flops, rel=1e-3)


def test_a_work_takes_at_least_what_binds_it():
    ceilings = Ceilings(matrix_rate=100, bandwidth=10, launch=0.5)
    assert Cost(200, 10, 1).floor_ms(ceilings) == 2000
    assert Cost(100, 40, 1).floor_ms(ceilings) == 4000
    assert predicted_ms(Cost(100, 10, 20), ceilings) == 10_000


def test_works_are_those_of_the_issue():
    deep = {(work.tokens, work.cached) for work in video_works(False) if (work.block, work.kind) == ("deep", "sweep")}
    assert deep == {(n, m) for n in (1, 128, 512, 1590, 3180) for m in (0, 8192, 16384, 32768)}
    assert Work("video", "pass", "deep", 2, CLIP_FRAMES * CLIP_FRAME_TOKENS) in video_works(False)
    assert {work.rows for work in image_works(False) if work.block == "deep"} == {2, 16}


def test_every_work_is_timed(tmp_path: Path):
    pipeline = pipeline_of("image", True, torch.device("cpu"), torch.float32)
    results = Results(tmp_path / "rows.json", torch.device("cpu"))
    works = image_works(True)
    time_works(results, pipeline.flow, works, (1, 8, 8), 8)
    assert results.failed == []
    keys = [asdict(work) for work in works]
    assert sorted(map(str, keys)) == sorted(str({name: row[name] for name in keys[0]}) for row in results.rows)
    assert all(row["ms"] > 0 for row in results.rows)


def rows_of_constant_cost(ms: float) -> tuple[list, list]:
    works = [work.key | {"ms": ms} for work in video_works(False)]
    stages = [
        {"stage": name, "latent_frames": n, "ms": ms} for name, n in (("denoising", CLIP_FRAMES), ("decoding", 1))
    ]
    return works, stages


def test_the_projection_counts_sweeps():
    ways = project(*rows_of_constant_cost(10))
    tokens = CLIP_FRAMES * CLIP_FRAME_TOKENS
    assert [way["evaluations"] for way in ways] == [1, 2, 4, 6]
    one, two = ways[:2]
    assert (one["window"], two["window"]) == (1, 3180)
    assert one["deep"] == pytest.approx(tokens * 0.01)
    assert two["deep"] == pytest.approx(2 * tokens / 3180 * 0.01)
    assert one["shallow"] == pytest.approx(SHALLOW_BLOCKS * CLIP_FRAME_TOKENS * 0.01)
    assert one["decoding"] == pytest.approx(CLIP_FRAMES * 0.01)
    assert one["total"] == pytest.approx(sum(one[stage] for stage in ("deep", "shallow", "denoising", "decoding")))


def test_the_projection_follows_the_length_of_the_cache():
    works, stages = rows_of_constant_cost(10)
    for row in works:
        if row["block"] == "deep" and row["tokens"] == 1:
            row["ms"] += row["cached"] / 1000
    mean = 10 + (CLIP_FRAMES * CLIP_FRAME_TOKENS - 1) / 2 / 1000
    assert project(works, stages)[0]["deep"] == pytest.approx(33.39 * mean, rel=1e-2)


def test_predictions_were_written_down_for_all_that_is_measured():
    written = predictions.load(tiny=False)
    assert written["assumed"] == asdict(ASSUMED)
    keys = [{name: row[name] for name in Work.__dataclass_fields__} for row in written["works"]]
    assert keys == [work.key for work in video_works(False) + image_works(False)]
    peak = max(row["weights"] + row["working"] for row in written["memory"] if row["way"] == "all on the device")
    assert 35 * GIB < peak < 45 * GIB


def test_the_page_is_that_of_the_results():
    assert (ROOT / "docs/gpu.md").read_text() == report.page(report.load(report.HERE / "results"))


def gpu_results(predicted: dict, factor: float) -> dict:
    """Results that a GPU might give: what is predicted, times a factor."""
    machine = {"card": "NVIDIA X1", "card_gib": 80.0, "cores": 8, "torch": "2", "cuda": "13", "python": "3"}
    ceilings = {"matrix_rate": 7e14, "bandwidth": 3e12, "launch": 5e-6, "from_host": 2e10}
    rows = [{"table": "machine", **machine}, {"table": "ceilings", **ceilings}]
    rows += [{"table": "works", **row, "ms": factor * row["ms"]} for row in predicted["works"]]
    rows += [{"table": "stages", **row, "ms": factor * row["ms"]} for row in predicted["stages"]]
    for row in predicted["memory"]:
        # a layer more than is assumed in group offloading
        more = predicted["layer_bytes"] if (row["way"], row["stage"]) == ("offload group", "sampling") else 0
        peak = row["weights"] + row["working"] + more
        rows.append({"table": "memory", "way": row["way"], "stage": row["stage"], "peak_bytes": peak})
    rows.append({"table": "overhead", "way": "tiling", "context_bytes": 2 * GIB, "allocator_bytes": GIB})
    rows.append({"table": "tests", "test": "test_this", "outcome": "failed", "seconds": 1.0, "message": "E\nwhy"})
    failed = [{"what": "sampling", "error": "OutOfMemoryError: no memory"}]
    return {"video": {"status": "failed with exit status 1", "seconds": 9.0, "rows": rows, "failed": failed}}


def test_a_page_with_results_of_a_gpu():
    predicted = predictions.load(tiny=False)
    results = {"date": "2030-01-01", "tiny": False, "stages": gpu_results(predicted, factor=2)}
    run = report.Run(results, predicted)
    page = report.page(run)
    assert "Measured on NVIDIA X1 (80 GiB), 8 cores" in page
    assert "| video | 50 | 75 | 9 | failed with exit status 1 |" in page
    assert "* video: sampling: OutOfMemoryError: no memory" in page
    assert "* failed: `test_this`: why" in page
    assert "| 128 | 10.4 (5.22)" in page
    assert "`OVERHEAD` is 1 GiB, which is too small: the context" in page
    assert f"`IN_FLIGHT` is {IN_FLIGHT} layers, which is off: the measured peak fits {IN_FLIGHT + 1:.1f}" in page
    total = project([row for row in predicted["works"] if row["model"] == "video"], predicted["stages"])[0]["total"]
    assert f"{2 * total:.0f} ({total:.0f})" in page
    assert not any(cell in page for cell in ("nan", "None"))


def test_a_page_of_a_run_that_was_cut_short():
    predicted = predictions.load(tiny=False)
    rows = gpu_results(predicted, 1)["video"]["rows"][:7]
    stages = {"video": {"status": "timed out", "seconds": 9.0, "rows": rows, "failed": []}}
    page = report.page(report.Run({"date": "2030", "tiny": False, "stages": stages}, predicted))
    assert "Not projected, as a part was not measured." in page
    assert "– (" in page
    nothing = report.page(report.Run({"date": "2030", "tiny": False, "stages": {}}, predicted))
    assert "whose first stage failed" in nothing
