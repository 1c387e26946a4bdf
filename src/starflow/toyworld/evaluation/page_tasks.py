"""The page's sections about tasks: what is made of pictures and clips, and long videos."""

from collections.abc import Mapping, Sequence
from typing import Any

from starflow.evaluation.measured import Card
from starflow.evaluation.report.pictures import DRIFT_SHARES, drift_curves
from starflow.evaluation.report.pieces import COMPLIANCE_ROWS, clip_cards, mean, share, share_table, table

THROUGH_VAE = "ceiling: true clips through the VAE"
CHECKED = "what the checker finds right"
STAYED = ("color", "shape", "size", "motion", "count", "background")
AFTER = ("color", "shape", "count", "background")


def tasks_sections(tasks: Mapping[str, Any] | None, cards: Mapping[str, Sequence[Card]]) -> str:
    """All tasks: results by their names, and what is shown of each."""
    if tasks is None:
        return ""
    texts = {
        "image_to_video": _image_to_video(tasks["image_to_video"]),
        "continuation": _continuation(tasks["continuation"]),
        "video_to_video": _video_to_video(tasks["video_to_video"]),
        "last_frame": _last_frame(tasks["last_frame"]),
    }
    return "".join(text + clip_cards(cards[name]) for name, text in texts.items())


def drift_section(drift: Mapping[str, Any] | None, cards: Sequence[Card]) -> str:
    """Long videos, second by second."""
    if drift is None:
        return ""
    generated, ceiling = drift["generated"], drift["ceiling"]
    title = f"<h2>Long videos: {drift['num_clips']} of {drift['seconds']} s</h2>\n"
    picture = f'<p><img src="{drift_curves(generated, ceiling)}" alt="what becomes of them, by the second"></p>\n'
    note = '<p class="quiet">Dashed: the ceiling, true videos of the same scenes and length through the VAE.</p>\n'
    ends = [(generated, 0), (generated, -1), (ceiling, 0), (ceiling, -1)]
    header = ["", "first second", "last second", "ceiling: first second", "last second"]
    rows = [["sharpness", *[mean(column["sharpness"][at], 3, "") for column, at in ends]]]
    rows += [[label, *[share(column[name][at]) for column, at in ends]] for name, label in DRIFT_SHARES.items()]
    return title + picture + note + table(header, rows) + clip_cards(cards)


def _image_to_video(part: Mapping[str, Any]) -> str:
    first, change = part["first_frame"], part["change"]
    rows = [
        ["first frame, PSNR to the picture", mean(first["psnr"], 2, "dB"), ""],
        ["the VAE's own reconstruction of it", mean(first["vae_psnr"], 2, "dB"), ""],
        ["difference", mean(first["difference"], 2, "dB"), f"at most {first['largest_difference']:.2f} dB either way"],
    ]
    changes = [
        [label, *[mean(change[column][key], 2, "of 255") for column in ("generated", "true")]]
        for key, label in (("first_step", "from the picture to the next frame"), ("later_steps", "each later step"))
    ]
    return (
        f"<h2>Image to video: {part['num_clips']} held-out pictures</h2>\n{table([], rows)}"
        + table(["change from frame to frame", "generated", "true clips through the VAE"], changes)
        + share_table(CHECKED, COMPLIANCE_ROWS, {"generated": part["generated"], THROUGH_VAE: part["ceiling"]})
    )


def _continuation(part: Mapping[str, Any]) -> str:
    columns = {"generated": "generated", "ceiling": THROUGH_VAE, "floor": "floor: the clip starts again"}
    judged = [part[column] for column in columns]
    rows = [
        ["the object is still there", *[share(each["there"]) for each in judged]],
        ["no seam shows", *[share(each["seamless"]) for each in judged]],
        ["jump at the joint, against linear extrapolation", *[mean(each["jump"], 2, "px") for each in judged]],
        ["… in the given part", *[mean(each["usual_jump"], 2, "px") for each in judged]],
        ["change of velocity at the joint", *[mean(each["velocity_change"], 2, "px/frame") for each in judged]],
    ]
    rows += [
        [f"what follows: {COMPLIANCE_ROWS[name]}", *[share(each["after"][name]) for each in judged]] for name in AFTER
    ]
    rows.append(["what follows: motion, of a kind that lasts", *[share(each["after"]["motion"]) for each in judged]])
    frames = part["num_frames"]
    title = f"Continuation: {part['num_clips']} held-out clips of {frames['given']} frames, to {frames['all']}"
    return f"<h2>{title}</h2>\n{table(['', *columns.values()], rows)}"


def _video_to_video(part: Mapping[str, Any]) -> str:
    labels = {"happened": "the edit happened", "stayed": "everything else stayed", "both": "both"}
    labels |= {name: f"{name} stayed, where it was not edited" for name in STAYED}
    columns = {"generated": "generated", "ceiling": THROUGH_VAE, "floor": "floor: the source as it is"}
    judged = [part[column] for column in columns]
    rows = [[label, *[share(each[name]) for each in judged]] for name, label in labels.items()]
    rows.append(["distance from where it should be", *[mean(each["path_error"], 2, "px") for each in judged]])
    made = part["generated"]
    groups = made["kinds"] | {f"{source} in the source": group for source, group in made["sources"].items()}
    by_group = [
        [label, *[share(group[name]) for name in ("happened", "stayed", "both")]] for label, group in groups.items()
    ]
    return (
        f"<h2>Video to video: {part['num_edits']} held-out edits</h2>\n{table(['', *columns.values()], rows)}"
        + table(["by kind of edit and by source, generated", "happened", "everything else stayed", "both"], by_group)
    )


def _last_frame(part: Mapping[str, Any]) -> str:
    columns = {"last": "the last frame given", "first_and_last": "the first one too"}
    judged = {title: part[column] for column, title in columns.items()}
    rows = [
        ["final frame, PSNR to the picture", *[mean(each["psnr"], 2, "dB") for each in judged.values()]],
        ["… to the picture of another clip", *[mean(each["other_psnr"], 2, "dB") for each in judged.values()]],
        ["the VAE's own reconstruction of the picture", *[mean(part["vae_psnr"], 2, "dB")] * len(columns)],
    ]
    checked = share_table(CHECKED, COMPLIANCE_ROWS, {title: each["generated"] for title, each in judged.items()})
    return f"<h2>Last frame: {part['num_clips']} held-out pictures</h2>\n{table(['', *judged], rows)}{checked}"
