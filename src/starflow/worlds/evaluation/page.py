"""The sections of the page about a game."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starflow.evaluation.contract import Measured
from starflow.evaluation.report.pieces import clip_cards, estimate, table
from starflow.worlds.evaluation.pictures import minute_curves, rollout_curves
from starflow.worlds.game import FPS, SCENARIOS, Action

Results = Mapping[str, Any]
COLUMNS = {
    "true": "true frames (ceiling)",
    "autoencoder": "true frames through the autoencoder",
    "rollout": "rollouts",
    "repeated": "repeating the last true frame",
    "nearest": "nearest neighbour in training",
}
PIXELS = {
    "psnr": "PSNR",
    "mean_psnr": "mean of the PSNR of each frame",
    "changed_psnr": "PSNR of the tenth of the pixels that change most",
}
CONTROL = {
    "move": "move is read right",
    "turn": "turn is read right",
    "attack": "attack is read right",
    "sideways": "direction of the sideways motion is read right",
    "turn_angle": "direction of the turn is read right",
}
MOTION_UNITS = {"sideways": "map units", "turn_angle": "°"}


def autoencoder_section(results: Results) -> str:
    header = ["", "PSNR", "PSNR of the monsters' pixels"]
    rows = [
        [name, estimate(part["psnr"], ".1f", "dB"), estimate(part["monsters_psnr"], ".1f", "dB")]
        for name, part in _scenarios(results)
    ]
    return f"<h2>Autoencoder on held-out episodes</h2>\n{table(header, rows)}"


def next_frame_section(results: Results) -> str:
    columns = {"sampled": "sampled"} | {each: COLUMNS[each] for each in ("repeated", "autoencoder")}
    rows = [
        [f"{name}: {title}", *[estimate(part[each][key], ".1f", "dB") for each in columns]]
        for name, part in _scenarios(results)
        for key, title in PIXELS.items()
    ]
    title = f"<h2>Next frame: {results['num_frames']} frames after 8 true ones</h2>\n"
    return title + table(["", *columns.values()], rows)


def rollouts_section(measured: Measured) -> str:
    results = measured.results
    horizons = results["horizons"]
    columns = ("rollout", "repeated", "nearest", "autoencoder")
    header = ["PSNR to the truth", *(f"frame {each}" for each in horizons)]
    rows = [
        [f"{name}: {COLUMNS[column]}", *[estimate(each, ".1f", "dB") for each in part[column]]]
        for name, part in _scenarios(results)
        for column in columns
    ]
    curves = rollout_curves(horizons, {COLUMNS[column]: results["all"][column] for column in columns})
    picture = f'<p><img src="{curves}" alt="PSNR over the frames"></p>\n'
    title = f"<h2>Rollouts: {results['num_clips']} clips from 8 true frames with the true actions</h2>\n"
    return title + picture + table(header, rows) + clip_cards(measured.cards, FPS)


def control_section(results: Results) -> str:
    columns = ("true", "autoencoder", "rollout")
    rows = []
    for name, part in _scenarios(results):
        for key, title in CONTROL.items():
            if part["true"][key] is None:
                continue
            share = "right_sign" if key in MOTION_UNITS else "right"
            shares = [estimate(part[each][key][share], ".0%") for each in columns]
            rows.append([f"{name}: {title}", *shares, _always(part, key)])
            if unit := MOTION_UNITS.get(key):
                errors = [estimate(part[each][key]["median_error"], ".1f", unit) for each in columns]
                rows.append([f"{name}: median error of it", *errors, ""])
    note = "<p>A network that learned from true frames of training episodes reads three frames at a time.</p>\n"
    header = ["", *(COLUMNS[each] for each in columns), "the commonest choice"]
    return f"<h2>Control: actions and motion that frames show</h2>\n{note}{table(header, rows)}"


def monsters_section(results: Results) -> str:
    columns = ("true", "autoencoder", "rollout", "repeated")
    measures: dict[str, Callable[[Results], str]] = {
        "cells found that are right": lambda part: estimate(part["precision"], ".0%"),
        "true cells that are found": lambda part: estimate(part["recall"], ".0%"),
        "median error of the place": lambda part: estimate(part["place_error"], ".1f", "px"),
        "size, relative to the truth": lambda part: estimate(part["size_ratio"], ".2f"),
    }
    rows = [
        [f"{name}, {span}: {title}", *[measure(each[column]) for column in columns]]
        for name, part in _scenarios(results)
        for span, each in part.items()
        for title, measure in measures.items()
    ]
    note = "<p>A detector that learned from true frames of training episodes, against the labels of the game.</p>\n"
    return f"<h2>Monsters</h2>\n{note}{table(['', *(COLUMNS[each] for each in columns)], rows)}"


def minute_section(measured: Measured) -> str:
    results = measured.results
    title = f"<h2>A minute of play: {results['num_rollouts']} rollouts of {results['seconds']} s</h2>\n"
    curves = minute_curves(results["rollout"], results["true"])
    picture = f'<p><img src="{curves}" alt="sharpness and distance over the seconds"></p>\n'
    note = "<p>The distance is the root-mean-square difference of frames averaged over 4×4 pixels, of 255 levels.</p>\n"
    return title + picture + note + clip_cards(measured.cards, FPS)


def surprise_section(measured: Measured) -> str:
    results = measured.results
    rows = [
        [name, str(part["num_frames"]), estimate(part["auroc"], ".3f"), estimate(part["larger"], ".0%")]
        for name in Action._fields
        if (part := results[name])
    ]
    header = ["a frame of another", "frames", "AUROC", "more surprising than the true frame of the same past"]
    likelihood = results["likelihood"]
    nats = {"true": "the player's actions", "other": "the actions of another clip", "none": "no actions"}
    lines = [[title, estimate(likelihood[key], ".3f", "nats")] for key, title in nats.items()] if likelihood else []
    return (
        f"<h2>Surprise at frames that another action leads to</h2>\n{table(header, rows)}"
        f"{clip_cards(measured.cards, FPS)}{table(['given', 'negative log-likelihood per dimension'], lines)}"
    )


def pairs_section(measured: Measured) -> str:
    note = "<p>One clip of each pair is true. The key is in evaluation.json.</p>\n"
    return f"<h2>Which is true?</h2>\n{note}{clip_cards(measured.cards, FPS)}"


def _scenarios(results: Results) -> Iterator[tuple[str, Results]]:
    """The results of all scenarios together, and of each."""
    return ((name, results[name]) for name in ("all", *SCENARIOS) if name in results)


def _always(part: Results, key: str) -> str:
    return "" if key in MOTION_UNITS else f"{part['true'][key]['always']:.0%}"
