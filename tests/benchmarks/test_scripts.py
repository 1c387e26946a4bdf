"""Scripts without a test of their own run to the end on a tiny model."""

import json
import math
from pathlib import Path

import pytest

import binding
import checker
import context
import growth
import half_precision
import lookahead
import lora_memory
import passes
import sensitivity
import session
import streaming
import tolerance
import training_parallel
from play_helpers import RATE, tiny_game
from tiny_pipeline import tiny_pipeline


def test_binding_prints_a_line_for_each_attribute(model: Path, capsys: pytest.CaptureFixture[str]):
    binding.main(["--model", str(model), "--num-clips", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(binding.SWAPPED)


def test_checker_reads_clean_clips_correctly(capsys: pytest.CaptureFixture[str]):
    checker.main(["--clips", "2"])
    header, clean, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["all", "ms"]
    assert clean.split()[:-1] == ["one", "object,", "clean", *7 * ["100.0"]]


def test_sensitivity_is_measured_in_each_latent_frame(model: Path, tmp_path: Path):
    path = tmp_path / "sensitivity.json"
    sensitivity.main(["--model", str(model), "--num-frames", "9", "-o", str(path)])
    guided, unguided = json.loads(path.read_text())["rows"]
    assert guided["guidance_scale"] > unguided["guidance_scale"] == 1
    assert all(0 < value < 1e-3 for row in (guided, unguided) for value in row["largest_difference"])
    assert len(guided["largest_difference"]) == 3


def test_a_stream_has_its_first_frame_before_its_last(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    streaming.main(["--model", str(model), "--num-frames", "9", "13", "--repeats", "1", "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "streaming.json").read_text())["rows"]
    assert [row["num_frames"] for row in rows] == [9, 13]
    ways = [row[way] for row in rows for way in ("streamed", "quick")]
    assert all(0 < way["arrivals"][0] < way["total"] for way in ways)
    assert all(min(row["stages_ms"].values()) > 0 for row in rows)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line] == [
        *("frames", "9", "9", "13", "13"),
        *("milliseconds", "frames", "9", "13"),
    ]
    assert (tmp_path / "streaming.png").exists()


def test_the_growth_of_the_speed_up_is_predicted_from_two_models(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    larger = tmp_path / "larger"
    tiny_pipeline(height=64, width=64).save_pretrained(larger)
    files = ["--json", str(tmp_path / "growth.json"), "--plot", str(tmp_path / "growth.png")]
    growth.main(["--models", str(model), str(larger), "--prompts", "a", "b", "--tokens", "1590", *files])
    rows = json.loads((tmp_path / "growth.json").read_text())["rows"]
    assert [(row["tokens"], row["window"]) for row in rows] == [(4, 2), (4, 4), (4, 8), (16, 8), (16, 16), (16, 32)]
    assert all(0 < min(row["sweeps"]) <= max(row["sweeps"]) <= row["tokens"] for row in rows)
    assert "predicted for 1590 tokens" in capsys.readouterr().out
    assert (tmp_path / "growth.png").exists()


def test_a_prediction_extends_a_power_law():
    rows = [growth.Row("m", tokens, tokens, [2 * tokens**0.5], 1.0) for tokens in (16, 64)]
    assert growth.exponents(rows) == pytest.approx([0.5])
    assert growth.prediction(rows, 400) == pytest.approx((40, 40))


def test_the_lookahead_has_a_line_for_each_way_to_denoise(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_pipeline(num_frames=17, height=64, width=64).save_pretrained(tmp_path)
    lookahead.main(["--model", str(tmp_path), "--num-clips", "2"])
    one, other = capsys.readouterr().out.splitlines()
    assert one.startswith("with the look-ahead  error of latents")
    assert other.startswith("without it           error of latents")
    assert one.split("error")[1] != other.split("error")[1]


def test_a_session_has_a_row_for_each_stretch_of_steps(model: Path, tmp_path: Path):
    session.main(["--model", str(model), "--steps", "6", "--rows", "2", "--json", str(tmp_path / "session.json")])
    rows = json.loads((tmp_path / "session.json").read_text())["rows"]
    assert [(row["first_step"], row["last_step"]) for row in rows] == [(1, 3), (4, 6)]
    assert all(0 < row["median_ms"] <= row["largest_ms"] for row in rows)
    assert all(row["sweeps"] >= 1 and row["resident_mb"] > 0 for row in rows)


def test_the_parts_of_a_played_step_add_up(model: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("playwright", reason="there is no playwright")
    import play

    figures = play.measure_steps(str(model), 4)
    parts = {name: part["median_ms"] for name, part in figures["parts"].items()}
    assert set(parts) > {"deep block", "shallow blocks", "denoiser", "decoder", "pixels"}
    inner = sum(time for name, time in parts.items() if name not in ("step", "surprise, if it is shown"))
    assert 0.3 * parts["step"] < inner < 1.5 * parts["step"]
    assert set(figures["encodings"]) == {"raw", "PNG", "WebP"}
    assert "least CPU" in capsys.readouterr().out


@pytest.mark.service
def test_what_a_player_sees_is_measured(tmp_path: Path):
    pytest.importorskip("playwright", reason="there is no playwright")
    import play

    tiny_game().save_pretrained(tmp_path)
    found = play.measure_play(str(tmp_path), seconds=3)
    assert 1 < found["frames_per_second"] < 1.2 * RATE
    assert found["num_controls"] > 0
    assert 0 < found["latency_ms"]["median"] <= found["latency_ms"]["95 %"]
    assert found["first_frame_seconds"] > 0


def test_a_pass_takes_as_many_operations_for_a_batch_as_for_one_clip(model: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--batch-sizes", "1", "2", "--tokens", "4", "--repeats", "1"]
    passes.main(["--model", str(model), *options])
    _, one, even, ragged = (line.split() for line in capsys.readouterr().out.splitlines())
    assert [line[2] for line in (one, even, ragged)] == ["even", "even", "ragged"]
    assert abs(int(one[4]) - int(even[4])) <= 4 < int(ragged[4]) - int(even[4])


def test_ragged_windows_as_long_as_a_clip_are_measured():
    pipeline = tiny_pipeline()
    plan = pipeline.plan("a red circle").sampling
    num_tokens = plan.num_frames * plan.noise.shape[3] * plan.noise.shape[4]
    rows = passes.measure(pipeline, 2, num_tokens, repeats=1)
    assert [(row["tokens"], row["kind"]) for row in rows] == [(num_tokens, "even"), (num_tokens, "ragged")]


def test_schedules_with_and_without_bfloat16_settle_a_clip(model: Path, capsys: pytest.CaptureFixture[str]):
    half_precision.main(["--model", str(model), "--clips", "1", "--windows", "4"])
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("residuals of clips sampled in bfloat16")
    (plain, *mixed) = (row.split() for row in rows)
    assert plain[:4] == ["4", "0", "+", "1"]
    assert float(plain[4]) == 0 < float(plain[5]) <= 12
    assert all(float(row[4]) > 0 for row in mixed)


def test_each_context_has_its_cost_and_its_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_pipeline(num_frames=17, height=64, width=64).save_pretrained(tmp_path / "model")
    options = ["--clips", "1", "--seconds", "3", "--repeats", "1", "--contexts", "4", "1"]
    context.main(["--model", str(tmp_path / "model"), *options, "--json", str(tmp_path / "context.json")])
    four, one = json.loads((tmp_path / "context.json").read_text())["rows"]
    assert (four["context"], one["context"]) == (4, 1)
    assert four["sweeps"] != one["sweeps"]
    assert len(four["drift"]["alone"]) == len(one["drift"]["alone"]) == 3
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_larger_tolerance_takes_fewer_evaluations(model: Path, tmp_path: Path):
    options = ["--num-prompts", "2", "--num-nudged", "1", "--tolerances", "1e-5", "1"]
    tolerance.main(["--model", str(model), *options, "-o", str(tmp_path)])
    exact, small, large = json.loads((tmp_path / "tolerance.json").read_text())["rows"]
    assert exact["psnr_worst"] > 100
    assert exact["evaluations_per_token"] == 1 < large["evaluations_per_token"] < small["evaluations_per_token"]
    assert small["max_residual"] <= 1e-5 < large["max_residual"] <= 1
    assert small["psnr_median"] > large["psnr_median"]
    assert math.isfinite(small["nudged_psnr_median"])
    assert (tmp_path / "tolerance.png").exists()


def test_checkpointing_saves_memory_in_training_a_lora(model: Path, capsys: pytest.CaptureFixture[str]):
    lora_memory.main(["--model", str(model), "--rank", "2", "--frames", "9"])
    weights, _, _, *rows = capsys.readouterr().out.splitlines()
    assert weights.startswith("weights of all parts: 0.0 GiB in bfloat16")
    assert [row.split(" | ")[1] for row in rows] == ["yes", "no"]
    adapter, _ = lora_memory.working_bytes(str(model), 2, 9, checkpointing=True)
    assert adapter == 4 * 2 * sum((20 + 60, 20 + 20, 20 + 80, 80 + 20))
    peaks = [lora_memory.working_bytes("toyworld", 2, 17, checkpointing=value)[1] for value in (True, False)]
    assert peaks[0] < 0.5 * peaks[1]


def test_training_benchmark_measures_checkpoints_and_recomputation(tmp_path: Path):
    cost = training_parallel.checkpoint_cost(tmp_path, 1)
    assert all(value > 0 for value in cost.values())
    memory = {kind: row["activation_megabytes"] for kind, row in training_parallel.recomputation(1).items()}
    assert memory["none"] > memory["selective"] > memory["full"] > 0
