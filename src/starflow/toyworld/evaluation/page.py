"""The sections of the page about toyworld's measurements."""

from collections.abc import Mapping
from html import escape
from typing import Any

from starflow.evaluation.contract import Measured
from starflow.evaluation.report.pieces import clip_cards, mean, share, share_table, table
from starflow.toyworld.evaluation.pictures import DRIFT_SHARES, drift_curves, motion_bars
from starflow.toyworld.world.vocabulary import FPS

COMPLIANCE_ROWS = {
    "color": "color",
    "shape": "shape",
    "size": "size, if the caption says it",
    "motion": "motion",
    "color_shape_motion": "color, shape and motion",
    "count": "number of objects",
    "background": "background, if the caption says it",
    "all": "everything that the caption says",
}
THROUGH_VAE = "ceiling: true clips through the autoencoder"
CHECKED = "right according to the checker"
STAYED = ("color", "shape", "size", "motion", "count", "background")
AFTER = ("color", "shape", "count", "background")


def compliance_section(measured: Measured, title: str, prompts: str) -> str:
    """Whether clips show what their captions say; `prompts` says where the captions come from."""
    part = measured.results
    columns = {
        "generated": part["generated"],
        THROUGH_VAE: part["ceiling"],
        "floor: the caption of another clip": part["floor"],
    }
    heading = f"<h2>{title}: {part['num_prompts']} captions ({escape(prompts)})</h2>\n"
    note = "" if part["sampling"]["converged"] else '<p class="wrong">The sampler did not converge everywhere.</p>\n'
    shares = share_table(CHECKED, COMPLIANCE_ROWS, columns)
    return f"{heading}{shares}{note}{_motions(part)}{clip_cards(measured.cards, FPS)}"


def surprise_section(measured: Measured) -> str:
    """Whether the flow notices violations."""
    header = [
        "violation",
        "AUROC against the same clips without it",
        "the most surprising latent frame is the one with the violation",
        "… in the clips without it",
    ]
    rows = [
        [violation, f"{each['auroc']:.3f}", share(each["located"]), share(each["coincidence"])]
        for violation, each in measured.results["violations"].items()
    ]
    note = (
        "<p>The detector is the surprise (negative log-likelihood) of a clip's most surprising latent frame. "
        f"{measured.results['num_clips']} clips of each violation.</p>\n"
    )
    return f"<h2>Surprise at impossible events</h2>\n{note}{table(header, rows)}{clip_cards(measured.cards, FPS)}"


def tasks_section(tasks: Mapping[str, Measured]) -> str:
    """All tasks, by their names."""
    tables = {
        "image_to_video": _image_to_video,
        "continuation": _continuation,
        "video_to_video": _video_to_video,
        "last_frame": _last_frame,
    }
    return "".join(tables[name](task.results) + clip_cards(task.cards, FPS) for name, task in tasks.items())


def drift_section(measured: Measured) -> str:
    """Long videos, second by second."""
    drift = measured.results
    generated, ceiling = drift["generated"], drift["ceiling"]
    title = f"<h2>Long videos: {drift['num_clips']} of {drift['seconds']} s</h2>\n"
    picture = f'<p><img src="{drift_curves(generated, ceiling)}" alt="the measurements over the seconds"></p>\n'
    note = '<p class="quiet">Dashed: true videos of the same scenes and length through the autoencoder.</p>\n'
    ends = [(generated, 0), (generated, -1), (ceiling, 0), (ceiling, -1)]
    header = ["", "first second", "last second", "ceiling: first second", "last second"]
    rows = [["sharpness", *[mean(column["sharpness"][at], 3, "") for column, at in ends]]]
    rows += [[label, *[share(column[name][at]) for column, at in ends]] for name, label in DRIFT_SHARES.items()]
    return title + picture + note + table(header, rows) + clip_cards(measured.cards, FPS)


def _motions(part: Mapping[str, Any]) -> str:
    generated, ceiling = part["generated"]["per_motion"], part["ceiling"]["per_motion"]
    if not any(each["n"] for each in generated.values()):
        return ""
    return f'<p><img src="{motion_bars(generated, ceiling)}" alt="how often each motion is right"></p>\n'


def _image_to_video(part: Mapping[str, Any]) -> str:
    first, change = part["first_frame"], part["change"]
    rows = [
        ["first frame, PSNR to the picture", mean(first["psnr"], 2, "dB"), ""],
        ["the picture through the autoencoder, PSNR", mean(first["vae_psnr"], 2, "dB"), ""],
        ["difference", mean(first["difference"], 2, "dB"), f"at most {first['largest_difference']:.2f} dB"],
    ]
    changes = [
        [label, *[mean(change[column][key], 2, "of 255") for column in ("generated", "true")]]
        for key, label in (("first_step", "from the picture to the next frame"), ("later_steps", "later"))
    ]
    return (
        f"<h2>Image to video: {part['num_clips']} held-out pictures</h2>\n{table([], rows)}"
        + table(["change from frame to frame", "generated", THROUGH_VAE], changes)
        + share_table(CHECKED, COMPLIANCE_ROWS, {"generated": part["generated"], THROUGH_VAE: part["ceiling"]})
    )


def _continuation(part: Mapping[str, Any]) -> str:
    columns = {"generated": "generated", "ceiling": THROUGH_VAE, "floor": "floor: the clip starts again"}
    judged = [part[column] for column in columns]
    rows = [
        ["the object is still there", *[share(each["there"]) for each in judged]],
        ["no seam shows", *[share(each["seamless"]) for each in judged]],
        ["jump at the joint, from linear extrapolation", *[mean(each["jump"], 2, "px") for each in judged]],
        ["… in the given part", *[mean(each["usual_jump"], 2, "px") for each in judged]],
        ["change of velocity at the joint", *[mean(each["velocity_change"], 2, "px/frame") for each in judged]],
    ]
    rows += [
        [f"after the joint: {COMPLIANCE_ROWS[name]}", *[share(each["after"][name]) for each in judged]]
        for name in AFTER
    ]
    rows.append(["after the joint: motion, if it lasts", *[share(each["after"]["motion"]) for each in judged]])
    frames = part["num_frames"]
    title = f"Continuation: {part['num_clips']} held-out clips, from {frames['given']} to {frames['all']} frames"
    return f"<h2>{title}</h2>\n{table(['', *columns.values()], rows)}"


def _video_to_video(part: Mapping[str, Any]) -> str:
    labels = {"happened": "the edit happened", "stayed": "everything else stayed", "both": "both"}
    labels |= {name: f"{name} stayed, if it was not edited" for name in STAYED}
    columns = {"generated": "generated", "ceiling": THROUGH_VAE, "floor": "floor: the source without an edit"}
    judged = [part[column] for column in columns]
    rows = [[label, *[share(each[name]) for each in judged]] for name, label in labels.items()]
    rows.append(["distance from the right place", *[mean(each["path_error"], 2, "px") for each in judged]])
    made = part["generated"]
    groups = made["kinds"] | {f"{source} in the source": group for source, group in made["sources"].items()}
    by_group = [
        [label, *[share(group[name]) for name in ("happened", "stayed", "both")]] for label, group in groups.items()
    ]
    return (
        f"<h2>Video to video: {part['num_edits']} held-out edits</h2>\n{table(['', *columns.values()], rows)}"
        + table(["generated, by kind of edit and by source", "happened", "everything else stayed", "both"], by_group)
    )


def _last_frame(part: Mapping[str, Any]) -> str:
    columns = {"last": "last frame given", "first_and_last": "first and last frame given"}
    judged = {title: part[column] for column, title in columns.items()}
    rows = [
        ["final frame, PSNR to the picture", *[mean(each["psnr"], 2, "dB") for each in judged.values()]],
        ["… to the picture of another clip", *[mean(each["other_psnr"], 2, "dB") for each in judged.values()]],
        ["the picture through the autoencoder, PSNR", *[mean(part["vae_psnr"], 2, "dB")] * len(columns)],
    ]
    checked = share_table(CHECKED, COMPLIANCE_ROWS, {title: each["generated"] for title, each in judged.items()})
    return f"<h2>Last frame: {part['num_clips']} held-out pictures</h2>\n{table(['', *judged], rows)}{checked}"
