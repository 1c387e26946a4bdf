from collections.abc import Iterable, Iterator

import pytest
import torch

from identity_flow import identity_flow
from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.metrics import denoising
from starflow.evaluation.metrics.denoising import METHOD_TITLES, evaluate_denoising
from starflow.evaluation.metrics.reconstruction import Reconstruction
from starflow.flow.denoiser import NOISE_UNIT
from starflow.flow.loss import add_noise
from starflow.pipeline.pipeline import StarFlowPipeline


class PerfectDenoiser:
    """Recognizes noisy latents and predicts exactly their noise."""

    def __init__(self, noisy: torch.Tensor, clean: torch.Tensor):
        self.noisy, self.clean = noisy, clean

    def stream(
        self, _: object, pieces: Iterable[torch.Tensor], text: torch.Tensor, *, look_ahead: bool
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        x = torch.cat(list(pieces), dim=1)
        matches = [int((self.noisy - each).flatten(1).norm(dim=1).argmin()) for each in x]
        yield x, (x - self.clean[matches]) / NOISE_UNIT


def test_methods_with_known_errors_are_measured_correctly(
    pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction, monkeypatch: pytest.MonkeyPatch
):
    noisy = add_noise(clean.latents, 0.3, torch.Generator().manual_seed(0))
    monkeypatch.setattr(pipeline, "flow", identity_flow(pipeline.flow))
    monkeypatch.setattr("starflow.pipeline.stages.stream_predictions", PerfectDenoiser(noisy, clean.latents).stream)
    monkeypatch.setattr(denoising, "TOKENS_AT_ONCE", 24)  # two clips
    monkeypatch.setattr(denoising, "NUM_SHOWN", 2)
    measured = evaluate_denoising(pipeline, clips, clean, noisy)
    errors = {name: measured.results[name]["latent_mse"]["mean"] for name in METHOD_TITLES}
    assert errors["nothing"] == pytest.approx((noisy - clean.latents).square().mean().item(), rel=1e-5)
    # The score of the identity is -x.
    expected = (noisy * (1 - 0.3**2) - clean.latents).square().mean().item()
    assert errors["score_step"] == pytest.approx(expected, rel=1e-4)
    assert errors["denoiser"] == pytest.approx(0, abs=1e-10)
    perfect = measured.results["denoiser"]
    assert (
        perfect["psnr_to_reconstruction"]["mean"] > 50 > measured.results["nothing"]["psnr_to_reconstruction"]["mean"]
    )
    assert perfect["psnr_to_clip"]["mean"] == pytest.approx(clean.psnr.mean().item(), rel=1e-4)
    assert [card.title for card in measured.cards] == clips.captions[:2]
    assert list(measured.cards[0].clips) == ["clean", *METHOD_TITLES.values()]
    assert all(clip.shape == (9, 32, 32, 3) for clip in measured.cards[1].clips.values())


def test_a_model_without_a_denoiser_has_no_denoiser_results(
    pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "denoiser", None)
    measured = evaluate_denoising(pipeline, clips, clean, clean.latents)
    assert measured.results["denoiser"] is None
    assert list(measured.cards[0].clips) == ["clean", "nothing", "one score step"]
