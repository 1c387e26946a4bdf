"""What the page says of the measurements that any source of clips allows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.metrics.denoising import METHOD_TITLES
from starflow.evaluation.metrics.reconstruction import Reconstruction
from starflow.evaluation.report.pieces import clip_cards, mean, share, table

NUM_SHOWN = 6


def headlines(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows of the table at the top: a label and a value as HTML."""
    yield "autoencoder, PSNR", f"{mean(results['vae']['psnr'], 2, 'dB')}, {results['vae']['num_clips']} clips"
    yield from _likelihood(results["likelihood"])
    if retrieval := results["retrieval"]:
        label = f"a clip's own caption is the likeliest of {retrieval['num_captions']}"
        yield label, f"{share(retrieval['top_1'])}; by chance {100 * retrieval['chance']:.0f}%"
    for method, title in METHOD_TITLES.items():
        if part := results["denoising"][method]:
            value = mean(part["psnr_to_reconstruction"], 2, "dB")
            yield f"latents denoised by {title}, PSNR to the clean latents' frames", value
    speed = results["speed"]
    size = f"{speed['num_frames']} frames of {speed['width']}×{speed['height']}"
    yield f"seconds from the prompt to {size}", mean(speed["clip"], 2, "s")
    yield "seconds from the prompt to the first streamed frame", mean(speed["first_frame"], 2, "s")
    yield "evaluations of the flow per token", f"{speed['evaluations_per_token']:.1f}"


def samples_section(cards: Sequence[Card], fps: float) -> str:
    """Generated clips beside the clips whose captions they have."""
    note = '<p class="quiet">The first captions, not selected.</p>\n'
    return f"<h2>Generated clips</h2>\n{note}{clip_cards(cards, fps)}"


def reconstruction_section(clips: CaptionedClips, clean: Reconstruction, fps: float) -> str:
    """Clips beside their reconstructions."""
    shown = zip(clips.captions[:NUM_SHOWN], clips.frames, clean.frames, clean.psnr.tolist(), strict=False)
    cards = [
        Card(caption, {"original": clip, f"{psnr:.1f} dB": reconstruction})
        for caption, clip, reconstruction, psnr in shown
    ]
    return f"<h2>Reconstructions by the autoencoder</h2>\n{clip_cards(cards, fps)}"


def denoising_section(measured: Measured, fps: float) -> str:
    """Each method's errors and frames."""
    denoising = measured.results
    header = ["denoised by", "squared error of the latents", "PSNR to the clean latents' frames", "PSNR to the clip"]
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
    note = f"<p>The latents have noise of standard deviation {denoising['noise_std']:g}.</p>\n"
    return f"<h2>Denoising</h2>\n{note}{table(header, rows)}{clip_cards(measured.cards, fps)}"


def _likelihood(likelihood: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    titles = {
        "caption": "negative log-likelihood with the caption",
        "empty_caption": "… with the empty caption",
        "difference": "… difference, the information in the caption",
    }
    for key, title in titles.items():
        nats, bits = (mean(likelihood[key][f"{unit}_per_dim"], 3, unit) for unit in ("nats", "bits"))
        yield title, f"{nats} per dimension, {bits}"
    floor = likelihood["noise_entropy"]
    value = f"{floor['nats_per_dim']:.3f} nats per dimension, {floor['bits_per_dim']:.3f} bits"
    yield "… entropy of the added noise, a lower bound", value
