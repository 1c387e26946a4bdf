from math import log, pi

import pytest
import torch

from identity_flow import identity_flow
from starflow.errors import StarflowError
from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.metrics import likelihood
from starflow.evaluation.metrics.likelihood import evaluate_likelihood, noise_entropy
from starflow.evaluation.metrics.reconstruction import Reconstruction
from starflow.pipeline.pipeline import StarFlowPipeline


@pytest.fixture(autouse=True)
def two_clips_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(likelihood, "TOKENS_AT_ONCE", 24)


def test_the_identity_gives_the_likelihood_of_a_normal(
    pipeline: StarFlowPipeline, clean: Reconstruction, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "flow", identity_flow(pipeline.flow))
    results = evaluate_likelihood(pipeline, clean.latents, ["a red circle"] * 3)
    nats = 0.5 * clean.latents.square().mean().item() + 0.5 * log(2 * pi)
    assert results["caption"]["nats_per_dim"]["mean"] == pytest.approx(nats, rel=1e-5)
    assert results["caption"]["bits_per_dim"]["mean"] == pytest.approx(nats / log(2), rel=1e-5)
    assert results["difference"]["nats_per_dim"]["mean"] == 0
    assert results["num_dims"] == 3 * 4 * 2 * 2


def test_it_depends_on_the_caption(pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction):
    results = evaluate_likelihood(pipeline, clean.latents, clips.captions)
    captioned, uncaptioned = (results[key]["nats_per_dim"]["mean"] for key in ("caption", "empty_caption"))
    assert captioned != uncaptioned
    assert results["difference"]["nats_per_dim"]["mean"] == pytest.approx(uncaptioned - captioned)


def test_nan_is_an_error(pipeline: StarFlowPipeline, clean: Reconstruction):
    with pytest.raises(StarflowError, match="NaN"):
        evaluate_likelihood(pipeline, clean.latents * torch.nan, ["a red circle"] * 3)


def test_the_entropy_of_the_noise():
    assert noise_entropy(0.3) == pytest.approx(torch.distributions.Normal(0.0, 0.3).entropy().item())
