"""`starflow info`: its output, without loading or downloading weights."""

import pytest

from starflow.cli.main import run


def test_info_of_a_bundled_model(capsys: pytest.CaptureFixture[str]):
    assert run(["info", "toyworld"]) == 0
    out = capsys.readouterr().out
    for word in ("text_encoder", "flow", "denoiser", "vae", "sampling", "decoding"):
        assert word in out
    assert "64×64, 17 frames, batch of 1: at most" in out


def test_info_of_a_released_model_that_must_fit_a_device(capsys: pytest.CaptureFixture[str]):
    options = ["--size", "480x480", "--num-frames", "5", "--batch-size", "2", "--no-guidance", "--memory", "12"]
    assert run(["info", "starflow-v-7b", *options]) == 0
    out = capsys.readouterr().out
    assert "5,977,211,744" in out
    assert "480×480, 5 frames, batch of 2: at most" in out
    assert "fits into 12 GiB with --" in out


def test_options_change_the_estimate(capsys: pytest.CaptureFixture[str]):
    peaks = []
    base = ["info", "starflow-3b"]
    for options in ([], ["--dtype", "float32"], ["--offload", "group", "--quantize", "int8"]):
        assert run([*base, *options]) == 0
        peaks.append(float(capsys.readouterr().out.rpartition("at most ")[2].split()[0]))
    assert peaks[2] < peaks[0] < peaks[1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["toyworld", "--size", "big"], 2, "WIDTHxHEIGHT"),
        (["toyworld", "--size", "65x64"], 2, "must be multiples of 16 pixels, not 65×64"),
        (["toyworld", "--num-frames", "16"], 2, "cannot make 16 frames; the nearest it can is 17"),
        (["toyworld", "--memory", "0.5"], 2, "no options make it fit into 0.5 GiB"),
        (["no-such-model"], 1, "no model at no-such-model"),
        (["owner/name"], 1, "offline mode is on"),
        (["toyworld", "--offload", "all"], 2, "--offload"),
        (["toyworld", "--processes", "2"], 2, "2 processes cannot share this model"),
        (["toyworld", "--quantize", "int4"], 2, "int4 needs layers with widths that are multiples of 128"),
        (["starflow-3b", "--offload", "model", "--processes", "2"], 2, "leave out --offload and --quantize"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(["info", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
