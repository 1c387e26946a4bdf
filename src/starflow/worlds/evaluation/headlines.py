"""The most important results about a game: a label and a value as HTML for each, over all scenarios."""

from collections.abc import Iterator

from starflow.evaluation.report.pieces import estimate
from starflow.worlds.evaluation.page import CONTROL, MOTION_UNITS, PIXELS, Results
from starflow.worlds.game import Action

Row = tuple[str, str]


def autoencoder(results: Results) -> Iterator[Row]:
    part = results["all"]
    yield "autoencoder on held-out frames, PSNR", estimate(part["psnr"], ".1f", "dB")
    yield "… on the monsters' pixels", estimate(part["monsters_psnr"], ".1f", "dB")


def next_frame(results: Results) -> Iterator[Row]:
    part = results["all"]
    for key, title in PIXELS.items():
        sampled, repeated, ceiling = (
            estimate(part[column][key], ".1f") for column in ("sampled", "repeated", "autoencoder")
        )
        yield f"next frame: {title}", f"{sampled} dB; repeating the last frame {repeated}; autoencoder {ceiling}"


def rollouts(results: Results) -> Iterator[Row]:
    part = results["all"]
    for place, horizon in enumerate(results["horizons"]):
        rollout, repeated, nearest = (
            estimate(part[column][place], ".1f") for column in ("rollout", "repeated", "nearest")
        )
        yield f"rollout, frame {horizon}, PSNR", f"{rollout} dB; repeating {repeated}; nearest neighbour {nearest}"


def control(results: Results) -> Iterator[Row]:
    part = results["all"]
    for key, title in CONTROL.items():
        if part["true"][key] is not None:
            share = "right_sign" if key in MOTION_UNITS else "right"
            true, rollout = (estimate(part[column][key][share], ".0%") for column in ("true", "rollout"))
            yield f"rollouts: {title}", f"{rollout}; ceiling {true}"
            if unit := MOTION_UNITS.get(key):
                true, rollout = (estimate(part[each][key]["median_error"], ".1f") for each in ("true", "rollout"))
                yield "… its median error", f"{rollout} {unit}; ceiling {true}"


def monsters(results: Results) -> Iterator[Row]:
    for span, part in results["all"].items():
        for key, title in {"precision": "cells found that are right", "recall": "true cells that are found"}.items():
            rollout, true, repeated = (estimate(part[each][key], ".0%") for each in ("rollout", "true", "repeated"))
            yield f"monsters, {span}: {title}", f"{rollout}; ceiling {true}; repeating {repeated}"


def minute(results: Results) -> Iterator[Row]:
    for name, spec in {"sharpness": ".3f", "distance": ".1f"}.items():
        seconds, true = results["rollout"][name], results["true"][name]
        first, last = estimate(seconds[0], spec), estimate(seconds[-1], spec)
        label = {"sharpness": "sharpness", "distance": "distance to the nearest training frame"}[name]
        yield f"a minute of play: {label}", f"first second {first}, last {last}; true frames {estimate(true, spec)}"


def surprise(results: Results) -> Iterator[Row]:
    for name in Action._fields:
        if part := results[name]:
            label = f"surprise at the frame of another {name}, AUROC"
            yield label, f"{estimate(part['auroc'], '.3f')}; larger in {estimate(part['larger'], '.0%')} of the pairs"
