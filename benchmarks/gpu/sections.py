"""The sections of the page, each from a run: text and tables in Markdown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from projection import project
from starflow.hardware.memory import IN_FLIGHT, OVERHEAD

if TYPE_CHECKING:
    from report import Run

GIB = 2**30
SWEEPS_PICTURE, MEMORY_PICTURE = "gpu-sweeps.png", "gpu-memory.png"
WORK = ("model", "kind", "block", "rows", "tokens", "cached")  # what a row of the table `works` is known by
NOT_MEASURED = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; None is a dash, numbers have three digits that count."""
    lines = [header, ["---"] * len(header), *([_cell(each) for each in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def beside(measured: float | None, predicted: float | None, run: "Run") -> str:
    """Measured (predicted), or what was predicted alone where there is no run."""
    if run.results is None:
        return _cell(predicted)
    return _cell(measured) if predicted is None else f"{_cell(measured)} ({_cell(predicted)})"


def tests(run: "Run") -> str:
    """`pytest -m gpu`."""
    text = "## Tests\n\n`pytest -m gpu`: fast paths against plain ones, golden numbers, whole clips, training.\n"
    rows = run.rows("tests")
    if not rows:
        return text
    outcomes = [row["outcome"] for row in rows]
    counts = ", ".join(f"{outcomes.count(each)} {each}" for each in ("passed", "failed", "skipped"))
    text += f"\n{counts}, in {sum(row['seconds'] for row in rows):.0f} s.\n\n"
    odd = [row for row in rows if row["outcome"] != "passed"]
    return text + "".join(f"* {row['outcome']}: `{row['test']}`: {_last_line(row['message'])}\n" for row in odd)


def _last_line(message: str) -> str:
    return (message.strip().splitlines() or [""])[-1]


def video(run: "Run") -> str:
    """The released video model."""
    text = """## The video model: 7B, 81 frames of 848×480

Random weights in bfloat16, guidance on. A clip is 33,390 tokens, a latent frame 1,590. Milliseconds of one sweep of the
deep block, by the tokens evaluated at once and those in its cache:

"""
    text += _sweeps(run, "video", 2, _milliseconds)
    if run.rows("works"):
        text += (
            "\nThe share of what the card allows: the least time that its arithmetic and its memory take, over that\n"
        )
        text += "which the sweep took.\n\n" + _sweeps(run, "video", 2, _share)
        text += f"\n![Milliseconds of a sweep]({SWEEPS_PICTURE})\n"
    text += "\nAll other passes (sequences × tokens of each, behind cached ones), and the stages after the flow:\n\n"
    passes = [row for row in run.predicted["works"] if row["model"] == "video" and _is_other(row)]
    lines = [[_named(row), _milliseconds(run, row), _share(run, row)] for row in passes]
    measured = {row["stage"]: row for row in run.rows("stages")}
    for row in run.predicted["stages"]:
        ms = measured.get(row["stage"], {}).get("ms")
        name = f"{row['stage']}, {row['latent_frames']} latent frame{'s' * (row['latent_frames'] > 1)}"
        lines.append([name, beside(ms, row["ms"], run), None])
    if "decoding, tiled" in measured:
        lines.append(["decoding, 1 latent frame, in tiles", measured["decoding, tiled"]["ms"], None])
    return text + table(["", "ms", "share of the card"], lines) + _sampled(run)


def _is_other(row: dict[str, Any]) -> bool:
    return not (row["block"] == "deep" and row["kind"] == "sweep")


def _named(row: dict[str, Any]) -> str:
    behind = f" behind {row['cached']:,}" if row["kind"] == "sweep" else ""
    return f"{row['block']} {row['kind']}, {row['rows']} × {row['tokens']:,} tokens{behind}"


def _sweeps(run: "Run", model: str, rows: int, cell: Any) -> str:
    """The deep block's sweeps: a line for each number of tokens, a column for each length of the cache."""
    sweeps = {
        (row["tokens"], row["cached"]): row
        for row in run.predicted["works"]
        if row["model"] == model and row["rows"] == rows and not _is_other(row)
    }
    windows, cached = (list(dict.fromkeys(key[place] for key in sweeps)) for place in (0, 1))
    lines = [[f"{window:,}", *(cell(run, sweeps[window, length]) for length in cached)] for window in windows]
    return table(["tokens at once", *(f"{length:,} cached" for length in cached)], lines)


def _measured_work(run: "Run", row: dict[str, Any]) -> dict[str, Any]:
    key = [row[name] for name in WORK]
    return next((each for each in run.rows("works") if [each[name] for name in WORK] == key), {})


def _milliseconds(run: "Run", row: dict[str, Any]) -> str:
    return beside(_measured_work(run, row).get("ms"), row["ms"], run)


def _share(run: "Run", row: dict[str, Any]) -> str | None:
    """The floor of a work at the measured ceilings, over its time."""
    measured, ceilings = _measured_work(run, row), run.only("ceilings")
    if not measured or not ceilings:
        return None
    arithmetic, memory = row["flops"] / ceilings["matrix_rate"], row["bytes"] / ceilings["bandwidth"]
    limit = "arithmetic" if arithmetic > memory else "memory"
    return f"{100_000 * max(arithmetic, memory) / measured['ms']:.0f} % of its {limit}"


def _sampled(run: "Run") -> str:
    made, steps = run.only("sampled"), run.only("one by one")
    text = ""
    if made:
        text += f"""
{made["latent_frames"]} latent frames were sampled for real in {made["seconds"]:.1f} s, {made["window"]} tokens at once:
{made["evaluations_per_token"]:.1f} evaluations per token, largest residual {made["max_residual"]:.1e},
{"converged" if made["converged"] else "NOT converged"} (random weights say nothing about how fast real ones converge).
"""
    if steps:
        text += (
            f"\nOne by one, a token of the first frames takes {steps['ms_per_token']:.2f} ms, the solver included.\n"
        )
    return text


def projected(run: "Run") -> str:
    """Seconds of a clip."""
    text = """## Seconds of an 81-frame clip

Projected: milliseconds of the parts, times how often each runs. How many evaluations a token takes depends on the
weights; 1 is token by token. The text encoder is left out.

"""
    predicted = project(_of_video(run.predicted["works"]), run.predicted["stages"])
    try:
        measured = project(_of_video(run.rows("works")), run.rows("stages"))
    except (LookupError, ValueError):
        measured = [{} for _ in predicted]
        text += "" if run.results is None else "Not projected, as a part was not measured.\n\n"
    stages = ("deep", "shallow", "denoising", "decoding", "total")
    lines = [
        [
            str(guess["evaluations"]),
            beside(got.get("window"), guess["window"], run),
            *(beside(got.get(stage), guess[stage], run) for stage in stages),
        ]
        for guess, got in zip(predicted, measured, strict=True)
    ]
    return text + table(["evaluations per token", "window", *stages], lines)


def _of_video(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["model"] == "video"]


def memory(run: "Run") -> str:
    """Peak memory against what `info` computes."""
    text = """## Memory

Peak of tensors on the card in each stage of that clip, GiB, beside what `starflow info` computes. A small text encoder
stands in for T5-XL, which would add 2.3 GiB where all weights are on the device.

"""
    measured = {(row["way"], row["stage"]): row["peak_bytes"] for row in run.rows("memory")}
    stages = list(dict.fromkeys(row["stage"] for row in run.predicted["memory"]))
    computed = {(row["way"], row["stage"]): row["weights"] + row["working"] for row in run.predicted["memory"]}
    lines = [
        [
            way,
            *(beside(_gib(measured.get((way, stage))), _gib(computed[way, stage]), run) for stage in stages),
        ]
        for way in dict.fromkeys(row["way"] for row in run.predicted["memory"])
    ]
    text += table(["", *stages], lines)
    if not measured:
        return text
    return text + f"\n![Measured and computed memory]({MEMORY_PICTURE})\n" + _constants(run, measured, computed)


def _gib(number: float | None) -> float | None:
    """In GiB; None for what the CPU does not count."""
    return number / GIB if number else None


def _constants(run: "Run", measured: dict[Any, int], computed: dict[Any, int]) -> str:
    """What the run says of the constants that the computation assumes."""
    lines = []
    if overhead := [row for row in run.rows("overhead") if "allocator_bytes" in row]:
        most = max(row["context_bytes"] + max(0, row["allocator_bytes"]) for row in overhead)
        verdict = "enough" if most <= OVERHEAD else "too small"
        lines.append(
            f"* `OVERHEAD` is {OVERHEAD / GIB:g} GiB, which is {verdict}: the context and what the allocator held "
            f"beyond its tensors took at most {most / GIB:.2f} GiB."
        )
    group = ("offload group", "sampling")
    if measured.get(group):
        layers = IN_FLIGHT + (measured[group] - computed[group]) / run.predicted["layer_bytes"]
        verdict = "right" if abs(layers - IN_FLIGHT) < 0.5 else "off"
        lines.append(
            f"* `IN_FLIGHT` is {IN_FLIGHT} layers, which is {verdict}: the measured peak fits {layers:.1f} of them."
        )
    off = {key: measured[key] / computed[key] for key in computed if measured.get(key)}
    if off:
        way, stage = worst = max(off, key=lambda key: abs(off[key] - 1))
        lines.append(
            f"* The computation is furthest off for {way}, {stage}: measured is {off[worst]:.2f} times computed."
        )
    header = "\nConstants of `src/starflow/hardware/memory.py`, to be changed by hand:\n\n"
    return header + "\n".join(lines) + "\n" if lines else ""


def image(run: "Run") -> str:
    """The released image model."""
    text = "## The image model: 3B, 256×256\n\nMilliseconds of passes through its blocks, guidance on:\n\n"
    works = [row for row in run.predicted["works"] if row["model"] == "image"]
    text += table(
        ["", "ms", "share of the card"], [[_named(row), _milliseconds(run, row), _share(run, row)] for row in works]
    )
    made = {row["batch"]: row for row in run.rows("images")}
    lines = []
    for guess in run.predicted["images"]:
        got = made.get(guess["batch"], {})
        for stage, computed in guess["peak_bytes"].items():
            peak = _gib(got.get("peak_bytes", {}).get(stage))
            lines.append([guess["batch"], stage, got.get("seconds", {}).get(stage), beside(peak, _gib(computed), run)])
    text += "\nWhole images, sampled by the sliding window and denoised by a step along the flow's score:\n\n"
    return text + table(["images", "stage", "s", "peak, GiB"], lines)


def bundled(run: "Run") -> str:
    """The bundled model."""
    text = "## The bundled model: 17 frames of 64×64\n\n"
    if not (rows := run.rows("clips")):
        return (
            text
            + "Latency and clips a second at batch 1, 8 and 64, for each sampler, and the time to the first frame.\n"
        )
    names = ("batch", "sampler", "dtype", "seconds", "clips_per_second", "evaluations_per_token", "max_residual")
    text += table([name.replace("_", " ") for name in names], [[row[name] for name in names] for row in rows])
    for row in run.rows("first frame"):
        text += f"\nFirst frame of a stream, {row['dtype']}: {1000 * row['seconds']:.0f} ms.\n"
    if graphs := run.rows("graphs"):
        columns = ("batch", "tokens", "launched_ms", "graph_ms", "difference")
        text += "\nMilliseconds of a sweep, launched one operation at a time and as a CUDA graph:\n\n"
        header = [name.replace("_", " ") for name in columns]
        text += table(header, [[row[name] for name in columns] for row in graphs])
    return text


def training(run: "Run") -> str:
    """Training steps."""
    text = """## Training

A step on one clip of 33,390 tokens: layers as wide as the 7B deep block's, weights in float32, arithmetic in bfloat16,
AdamW. Utilisation counts a forward pass and a backward pass of twice its FLOPs, over the card's matrix rate.

"""
    guessed = {row["layers"]: row["ms"] for row in run.predicted["training"]}
    rate = run.only("ceilings").get("matrix_rate")
    rows = run.rows("training") or [
        {"layers": layers, "checkpointing": False, "compiled": False, "ms": None, "flops": None} for layers in guessed
    ]
    lines = []
    for row in rows:
        plain = not (row["checkpointing"] or row["compiled"])
        how = ", ".join(name for name in ("checkpointing", "compiled") if row[name]) or "plain"
        share = f"{100_000 * row['flops'] / row['ms'] / rate:.0f} %" if rate and row["ms"] else None
        ms = beside(row["ms"], guessed.get(row["layers"]) if plain else None, run)
        lines.append([row["layers"], how, ms, row.get("tokens_per_second"), share, _gib(row.get("peak_bytes"))])
    text += table(["layers", "", "ms", "tokens a second", "utilisation", "peak, GiB"], lines)
    steps = run.rows("bundled training")
    if steps:
        text += "\nFlow and denoiser of the bundled model:\n\n" + table(
            ["clips in a batch", "ms", "clips a second", "peak, GiB"],
            [[row["batch"], row["ms"], row["clips_per_second"], _gib(row["peak_bytes"])] for row in steps],
        )
    return text


def improvement(run: "Run") -> str:
    """More training of the bundled model."""
    text = """## More training of the bundled model

The last stage trains the bundled model for as long as there is time, and scores it on clips of the test split that
neither its training nor its evaluation has seen. Weights that score better are brought back. They replace the bundled
ones only if `starflow evaluate toyworld` agrees.
"""
    if not (row := run.only("improvement")):
        return text
    verdict = "brought back" if row["difference"] < 0 else "not brought back"
    return f"""{text}
{row["steps"]:,} steps of {row["batch"]} clips: from {row["before"]:.4f} to {row["after"]:.4f} nats per dimension,
{row["difference"]:+.4f} ± {row["standard_error"]:.4f} over {row["clips"]} clips. The weights were {verdict}.
"""


SECTIONS = (tests, video, projected, memory, image, bundled, training, improvement)
