"""Writes the measurements of the bundled model to the tables of docs/results.md, docs/sampling.md and the model card.

`python docs/tables.py` reads them from the model's evaluation.json (`starflow evaluate`) and from docs/sampling.json
(`python benchmarks/sampling.py`). It finds a table by its header. It does not change the text around the tables.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "src" / "starflow" / "zoo" / "toyworld"
PAGES = (ROOT / "docs" / "results.md", MODEL / "README.md", ROOT / "docs" / "sampling.md")
SECONDS = (1, 5, 10, 20, 30)

Results = Mapping[str, Any]


def share(proportion: Results, digits: int = 0) -> str:
    """A proportion with its 95 % interval."""
    low, high = proportion["interval"]
    return f"{proportion['value']:.{digits}%} ({100 * low:.0f}–{100 * high:.0f})".replace("%", " %")


def db(summary: Results) -> str:
    return f"{summary['mean']:.1f} dB"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def table(header: Iterable[str], *rows: str) -> list[str]:
    cells = list(header)
    return [row(*cells), "|" + "---|" * len(cells), *rows]


def captions(results: Results) -> list[str]:
    one, two = results["compliance"]["one_object"], results["compliance"]["two_objects"]
    columns = ("generated", "ceiling", "floor")
    names = {
        "color": "color",
        "shape": "shape",
        "motion": "motion",
        "color, shape and motion": "color_shape_motion",
    }
    return table(
        ["held-out captions, share right (95 % interval)", "generated", "autoencoder's ceiling", "shuffled captions"],
        *(row(name, *(share(one[column][key], 1) for column in columns)) for name, key in names.items()),
        row("two objects, everything said", *(share(two[column]["all"], 1) for column in columns)),
    )


def likelihood(results: Results) -> list[str]:
    nats, denoising = results["likelihood"], results["denoising"]

    def per_dimension(part: str) -> str:
        values = (f"{nats[part][f'{unit}_per_dim']['mean']:.3f} {unit}" for unit in ("nats", "bits"))
        return f"{', '.join(values)} per dimension"

    def noise_floor() -> str:
        return f"{nats['noise_entropy']['nats_per_dim']:.3f} nats per dimension"

    errors = (f"{denoising[each]['latent_mse']['mean']:.4f}" for each in ("nothing", "score_step", "denoiser"))
    return table(
        ["autoencoder and flow", "measured"],
        row("autoencoder, PSNR on 200 held-out clips", db(results["vae"]["psnr"])),
        row("flow, held-out negative log-likelihood with the caption", per_dimension("caption")),
        row("… with the empty caption", per_dimension("empty_caption")),
        row("… entropy of the added noise alone, a floor", noise_floor()),
        row("noised latents, decoded: PSNR to the clip", db(denoising["nothing"]["psnr_to_clip"])),
        row("… after one score step", db(denoising["score_step"]["psnr_to_clip"])),
        row("… after the learned denoiser", db(denoising["denoiser"]["psnr_to_clip"])),
        row("mean squared error of latents: noised, score step, denoiser", ", ".join(errors)),
    )


def tasks(results: Results) -> list[str]:
    image, clip, edit, last = (
        results["tasks"][task] for task in ("image_to_video", "continuation", "video_to_video", "last_frame")
    )

    def both(name: str, part: Results, key: str, task: str = "") -> str:
        return row(task, name, share(part["generated"][key]), share(part["ceiling"][key]))

    def both_parts(source: str) -> str:
        generated, true = (edit[who]["sources"][source]["both"] for who in ("generated", "ceiling"))
        return row("", f"both, of {generated['n']} with {source} in the source", share(generated), share(true))

    def steps(who: str) -> str:
        change = image["change"][who]
        return f"{change['first_step']['mean']:.1f}, {change['later_steps']['mean']:.1f}"

    def jumps(who: str) -> str:
        return f"{clip[who]['jump']['mean']:.1f} px, {clip[who]['usual_jump']['mean']:.1f} px"

    def final_frame(task: str, name: str, given: str) -> str:
        psnr = f"{db(last[given]['psnr'])} ({db(last[given]['other_psnr'])})"
        return row(task, name, psnr, db(last["vae_psnr"]))

    first = image["first_frame"]
    return table(
        ["task", "measured", "generated", "autoencoder's ceiling"],
        row(
            "image to video, 50 pictures",
            "PSNR of the first frame to the picture",
            db(first["psnr"]),
            db(first["vae_psnr"]),
        ),
        both("color, shape and motion right", image, "color_shape_motion"),
        row("", "mean change from frame 0 to 1, and in later steps (of 255)", steps("generated"), steps("true")),
        both("object still there", clip, "there", "continuation, 50 clips of 17 frames to 33"),
        both("no seam at the joint", clip, "seamless"),
        row("", "jump at the joint, and in the given part", jumps("generated"), jumps("ceiling")),
        both("the edit happened", edit, "happened", "video to video, 100 edits"),
        both("everything else stayed", edit, "stayed"),
        both("both", edit, "both"),
        both_parts("one object"),
        both_parts("two objects"),
        final_frame("last frame given, 50", "PSNR of the final frame to it (to another clip's)", "last"),
        final_frame("first and last frame given", "the same", "first_and_last"),
    )


def drift(results: Results) -> list[str]:
    generated, true = results["drift"]["generated"], results["drift"]["ceiling"]

    def percent(name: str, key: str) -> str:
        at = [generated[key][second - 1] for second in SECONDS] + [true[key][SECONDS[-1] - 1]]
        return row(name, *(f"{100 * each['value']:.0f} %" for each in at))

    sharpness = [generated["sharpness"][second - 1] for second in SECONDS] + [true["sharpness"][SECONDS[-1] - 1]]
    return table(
        ["second", *map(str, SECONDS), f"true clips through the autoencoder, at {SECONDS[-1]}"],
        percent("object there", "present"),
        percent("its color right", "color"),
        percent("its shape right", "shape"),
        percent("background as at first", "background"),
        row("sharpness", *(f"{each['mean']:.2f}" for each in sharpness)),
    )


def surprise(results: Results) -> list[str]:
    header = [
        "planted violation, 50 clips each",
        "AUROC of the most surprising frame",
        "it is the planted one",
        "in the matched normal clip, by chance",
    ]
    return table(
        header,
        *(
            row(kind, f"{each['auroc']:.3f}", share(each["located"]), share(each["coincidence"]))
            for kind, each in results["surprise"]["violations"].items()
        ),
    )


def speed_of_one_clip(rows: Sequence[Results]) -> list[str]:
    """Seconds and errors of all samplers, a row for each length."""
    of_length = {each["num_frames"]: {} for each in rows}
    for each in rows:
        if each["batch_size"] == 1:
            of_length[each["num_frames"]][each["sampler"]] = each

    def cell(each: Results) -> str:
        return f"{each['latency_s']:.2f} s, {each['max_error']:.2g}"

    return table(
        [
            "frames; seconds, largest error",
            "sequential",
            "published, 32/128",
            "published, 64/512",
            "sliding, the default",
        ],
        *(row(str(frames), *map(cell, by_sampler.values())) for frames, by_sampler in of_length.items()),
    )


def speed(rows: Sequence[Results]) -> list[str]:
    header = ["frames, batch", "", "seconds", "against sequential", "largest error", "largest residual", "sweeps"]
    return table(
        [*header, "evaluations per token"],
        *(
            row(
                f"{each['num_frames']}, {each['batch_size']}" if each["sampler"] == "sequential" else "",
                each["sampler"],
                f"{each['latency_s']:.2f}",
                f"{each['speedup_over_sequential']:.1f}×",
                f"{each['max_error']:.2g}",
                f"{each['max_residual']:.2g}",
                str(each["sweeps"]),
                f"{each['evaluations_per_token']:.1f}",
            )
            for each in rows
        ),
    )


def filled(text: str) -> str:
    """A page with the current measurements in each table whose header is known."""
    results = json.loads((MODEL / "evaluation.json").read_text())
    sampling = json.loads((ROOT / "docs" / "sampling.json").read_text())
    tables = [each(results) for each in (captions, likelihood, tasks, drift, surprise)]
    current = {lines[0]: lines for lines in [*tables, speed_of_one_clip(sampling), speed(sampling)]}
    page: list[str] = []
    for is_table, group in groupby(text.split("\n"), lambda line: line.startswith("|")):
        lines = list(group)
        page += current.get(lines[0], lines) if is_table else lines
    return "\n".join(page)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
