"""The page that shows an evaluation: one HTML file with tables and pictures, which needs no network and no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from starflow.evaluation.clips import Frames
from starflow.evaluation.measured import Card
from starflow.evaluation.report.pictures import motion_bars
from starflow.evaluation.report.pieces import COMPLIANCE_ROWS, card_grid, clip_row, mean, share, share_table, table
from starflow.toyworld.evaluation.compliance import Example
from starflow.toyworld.evaluation.page_tasks import drift_section, tasks_sections
from starflow.toyworld.evaluation.surprise import SurprisingClip
from starflow.toyworld.reader.checker import CheckResult

GROUP_TITLES = {"one_object": "One object", "two_objects": "Two objects"}
ORDER = ("size", "color", "shape", "motion")  # of an object's attributes, as captions say them
METHOD_TITLES = {"nothing": "nothing", "score_step": "one score step", "denoiser": "the learned denoiser"}

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem 1.6rem .2rem 0; text-align: left; vertical-align: top; font-variant-numeric: tabular-nums }
th { font-weight: 600; border-bottom: 1px solid #ccc }
small, .quiet { color: #666; font-size: .85em }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(38rem, 1fr)); gap: 1.4rem 2rem }
.card p { margin: 0 0 .2rem }
.row { display: flex; gap: 8px; align-items: center; margin: .2rem 0 }
.row img { height: 80px }
.label { width: 6.5rem; flex: none; color: #666; font-size: .85em }
.held { color: #1a7f37 }
.failed { color: #c0262d; font-weight: 600 }
"""


@dataclass(frozen=True)
class Pictures:
    """What the page shows beside the results; clips are uint8 `(n, F, height, width, 3)`.

    Attributes:
        examples: generated clips.
        clips, captions: held-out clips.
        reconstructions, psnr: what the VAE makes of them, and the PSNR in dB of each.
        denoised: by each method, what noised latents of the same clips decode to.
        surprising: clips in which something happens that cannot.
        tasks: by its name, what each task made. drift: long videos.
    """

    examples: Sequence[Example]
    clips: Frames
    captions: Sequence[str]
    reconstructions: Frames
    psnr: Sequence[float]
    denoised: Mapping[str, Frames]
    surprising: Sequence[SurprisingClip]
    tasks: Mapping[str, Sequence[Card]]
    drift: Sequence[Card]


def render_page(results: Mapping[str, Any], pictures: Pictures) -> str:
    """The page as HTML text."""
    name = escape(results["model"]["name"])
    sections = [
        _heading(results["model"]),
        _summary(results),
        *[_compliance(group, results["compliance"]) for group in GROUP_TITLES],
        tasks_sections(results["tasks"], pictures.tasks),
        drift_section(results["drift"], pictures.drift),
        _surprise(results["surprise"], pictures.surprising),
        _examples(pictures.examples),
        _reconstructions(pictures),
        _denoising(results["denoising"], pictures),
        _settings(results["model"]),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Evaluation of {name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{''.join(sections)}</body>\n</html>\n"
    )


# --- sections ---------------------------------------------------------------------------------------------------------


def _heading(model: Mapping[str, Any]) -> str:
    parameters = model["parameters"]["total"] / 1e6
    return (
        f"<h1>Evaluation of {escape(model['name'])}</h1>\n"
        f'<p class="quiet">{model["date"]}; {parameters:.2f} million parameters; '
        f"{model['seconds']['total']:.0f} s on {escape(str(model['machine']['cpu']))}, "
        f"{model['machine']['threads']} threads</p>\n"
    )


def _summary(results: Mapping[str, Any]) -> str:
    rows = [
        ["VAE, PSNR", mean(results["vae"]["psnr"], 2, "dB"), f"{results['vae']['num_clips']} held-out clips"],
        *_likelihood_rows(results["likelihood"]),
        *_retrieval_rows(results["retrieval"]),
    ]
    for method, title in METHOD_TITLES.items():
        if part := results["denoising"][method]:
            psnr = mean(part["psnr_to_reconstruction"], 2, "dB")
            rows.append([f"noised latents denoised by {title}", psnr, "PSNR against the decoded clean latents"])
    for group, title in GROUP_TITLES.items():
        if part := results["compliance"][group]:
            for key in ("color_shape_motion", "all"):
                said = share(part["generated"][key])
                rows.append([f"{title.lower()}: {COMPLIANCE_ROWS[key]}", said, "of the generated clips"])
    note = '<p class="quiet">± standard error; in brackets 95% intervals.</p>\n'
    return f"<h2>In short</h2>\n{table([], rows)}{note}"


def _likelihood_rows(likelihood: Mapping[str, Any]) -> list[list[str]]:
    titles = {
        "caption": "flow, with the caption",
        "empty_caption": "flow, with the empty caption",
        "difference": "what the caption saves",
    }
    rows = [
        [
            title,
            mean(likelihood[key]["nats_per_dim"], 3, "nats per dimension"),
            mean(likelihood[key]["bits_per_dim"], 3, "bits per dimension"),
        ]
        for key, title in titles.items()
    ]
    floor = likelihood["noise_entropy"]
    nats, bits = f"{floor['nats_per_dim']:.3f} nats per dimension", f"{floor['bits_per_dim']:.3f} bits per dimension"
    return [*rows, ["entropy of the noise alone: no model can be lower", nats, bits]]


def _retrieval_rows(retrieval: Mapping[str, Any] | None) -> list[list[str]]:
    if retrieval is None:
        return []
    said = f"of clips; by chance {100 * retrieval['chance']:.0f}%"
    return [[f"a clip's own caption is the likeliest of {retrieval['num_captions']}", share(retrieval["top_1"]), said]]


def _compliance(group: str, compliance: Mapping[str, Any]) -> str:
    part = compliance[group]
    if part is None:
        return ""
    columns = {
        "generated": "generated",
        "ceiling": "ceiling: the VAE's reconstructions of true clips",
        "floor": "floor: with another's caption",
    }
    shares = share_table(
        "what the checker finds right", COMPLIANCE_ROWS, {title: part[column] for column, title in columns.items()}
    )
    note = "" if part["sampling"]["converged"] else '<p class="failed">The sampler did not converge everywhere.</p>\n'
    title = f"{GROUP_TITLES[group]}: {part['num_prompts']} captions ({escape(compliance['prompts'])})"
    return f"<h2>{title}</h2>\n{shares}{note}{_motions(part)}"


def _motions(part: Mapping[str, Any]) -> str:
    generated, ceiling = part["generated"]["per_motion"], part["ceiling"]["per_motion"]
    if not any(each["n"] for each in generated.values()):
        return ""
    return f'<p><img src="{motion_bars(generated, ceiling)}" alt="how often each motion is right"></p>\n'


def _surprise(surprise: Mapping[str, Any], examples: Sequence[SurprisingClip]) -> str:
    header = [
        "what the object does",
        "AUROC against the same clips without it",
        "the most surprising latent frame is the one in which it happens",
        "… in the clips without it",
    ]
    rows = [
        [violation, f"{each['auroc']:.3f}", share(each["located"]), share(each["coincidence"])]
        for violation, each in surprise["violations"].items()
    ]
    cards = [
        f'<div class="card"><p>{escape(example.caption)}: {example.violation}</p>\n{clip_row("clip", example.frames)}'
        f"{clip_row('surprise', example.heat)}</div>\n"
        for example in examples
    ]
    said = "The surprise, that is the negative log-likelihood, of a clip's most surprising latent frame as a detector."
    note = f"<p>{said} {surprise['num_clips']} clips of each.</p>\n"
    return f"<h2>Surprise: things that cannot happen</h2>\n{note}{table(header, rows)}{card_grid(cards)}"


def _examples(examples: Sequence[Example]) -> str:
    cards = [
        f'<div class="card"><p>{escape(example.prompt.caption)}</p>\n{clip_row("", example.frames)}'
        f"<p>{_marks(example.check)}</p></div>\n"
        for example in examples
    ]
    if not cards:
        return ""
    return f'<h2>Generated clips</h2>\n<p class="quiet">The first ones, not chosen.</p>\n{card_grid(cards)}'


def _reconstructions(pictures: Pictures) -> str:
    each = zip(pictures.captions, pictures.clips, pictures.reconstructions, pictures.psnr, strict=True)
    cards = [
        f'<div class="card"><p>{escape(caption)}</p>\n{clip_row("original", clip)}'
        f"{clip_row(f'VAE, {psnr:.1f} dB', reconstruction)}</div>\n"
        for caption, clip, reconstruction, psnr in each
    ]
    return f"<h2>Reconstructions</h2>\n{card_grid(cards)}"


def _denoising(denoising: Mapping[str, Any], pictures: Pictures) -> str:
    rows = [
        [
            title,
            mean(denoising[method]["latent_mse"], 4, ""),
            mean(denoising[method]["psnr_to_reconstruction"], 2, "dB"),
            mean(denoising[method]["psnr_to_clip"], 2, "dB"),
        ]
        for method, title in METHOD_TITLES.items()
        if denoising[method]
    ]
    header = [
        "denoised by",
        "squared error of the latents",
        "PSNR against the decoded clean latents",
        "PSNR against the clip",
    ]
    cards = []
    for index, caption in enumerate(pictures.captions):
        shown = clip_row("clean", pictures.reconstructions[index])
        for method, frames in pictures.denoised.items():
            shown += clip_row(METHOD_TITLES[method], frames[index])
        cards.append(f'<div class="card"><p>{escape(caption)}</p>\n{shown}</div>\n')
    noise = f"<p>Latents of held-out clips with noise of standard deviation {denoising['noise_std']:g}.</p>\n"
    return f"<h2>Denoising</h2>\n{noise}{table(header, rows)}{card_grid(cards)}"


def _settings(model: Mapping[str, Any]) -> str:
    rows = []
    for group in ("parameters", "settings", "machine", "seconds"):
        for key, value in model[group].items():
            rows.append([f"{group}: {key}", escape(f"{value:,}" if isinstance(value, int) else str(value)), ""])
    return "<h2>Model, settings, machine</h2>\n" + table([], rows)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _marks(result: CheckResult) -> str:
    """What a caption says, object by object, each with whether the checker finds it."""
    groups = [[(getattr(item.description, name), getattr(item, name)) for name in ORDER] for item in result.objects]
    groups.append([("number of objects", result.count), ("background", result.background)])
    return " &nbsp;·&nbsp; ".join(
        " &nbsp;".join(_mark(said, held) for said, held in group if held is not None) for group in groups
    )


def _mark(said: str, held: bool) -> str:
    kind, sign = ("held", "✓") if held else ("failed", "✗")
    return f'<span class="{kind}">{escape(said)}&nbsp;{sign}</span>'
