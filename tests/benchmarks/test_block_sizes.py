"""How block sizes are measured, compared and stored, on a tiny pipeline."""

import json
from pathlib import Path

import pytest

from block_sizes import Row, fastest, main, measure
from starflow.sampling.windows import fastest_window
from tiny_pipeline import tiny_pipeline


def test_every_size_is_measured_in_both_kinds_of_blocks():
    rows = measure(tiny_pipeline(), [1, 4], repeats=2, seed=0)
    assert [(row.blocks, row.size) for row in rows] == [("deep", 1), ("deep", 4), ("shallow", 1), ("shallow", 4)]
    assert min(row.seconds for row in rows) > 0
    one, four, shallow_one, _ = rows
    assert (one.sweeps, one.evaluations_per_token) == (12, 1)  # 3 latent frames of 2×2 tokens
    assert (shallow_one.sweeps, shallow_one.evaluations_per_token) == (8, 1)  # 2 blocks of 4 tokens, frames together
    assert four.sweeps <= 12
    assert four.evaluations_per_token > 1
    assert all(row.sweep_over_pass > 0 for row in rows)


def test_the_fastest_size_is_found_for_each_kind_of_blocks():
    rows = [
        Row("deep", 1, 0.3, 1, 1.0, 1.1),
        Row("deep", 8, 0.2, 9, 1.0, 1.1),
        Row("shallow", 1, 0.1, 1, 1.0, 1.1),
        Row("shallow", 8, 0.4, 1, 1.0, 1.1),
    ]
    assert fastest(rows, "deep") == 8
    assert fastest(rows, "shallow") == 1


def test_the_fastest_sizes_are_stored_only_if_asked_for(model: Path, capsys: pytest.CaptureFixture[str]):
    before = json.loads((model / "model_index.json").read_text())
    options = ["--sizes", "1", "3", "--repeats", "1", "--device", "cpu", "--model", str(model)]
    main(options)
    assert json.loads((model / "model_index.json").read_text()) == before
    capsys.readouterr()
    main([*options, "--save"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [[b, w] for b in ("deep", "shallow") for w in "13"]
    stored = json.loads((model / "model_index.json").read_text())
    assert list(stored) == sorted(stored)
    assert {name for name in stored if stored[name] != before[name]} <= {"block_size", "shallow_block_size"}
    deep, shallow = stored["block_size"], stored["shallow_block_size"]
    assert lines[6] == f"fastest: {deep} in the deep block, {shallow} in the shallow blocks"
    assert {deep, shallow} <= {1, 3}


def test_the_fastest_sizes_of_batches_are_stored_for_this_machine(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("STARFLOW_CACHE", str(tmp_path))
    options = ["--sizes", "1", "3", "--repeats", "1", "--device", "cpu", "--model", str(model)]
    main([*options, "--batch-sizes", "1", "2", "--store"])
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("fastest")]
    flow = tiny_pipeline().flow
    assert [fastest_window(flow, size) for size in (1, 2)] == [int(deep) for deep in printed]


def test_sizes_are_stored_only_in_a_folder(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["--save"])
    assert stopped.value.code == 2
    assert "--model must be a folder, not toyworld" in capsys.readouterr().err
