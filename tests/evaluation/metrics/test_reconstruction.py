import numpy as np
import pytest
import torch

from starflow.evaluation.clips import CaptionedClips
from starflow.evaluation.metrics import reconstruction
from starflow.evaluation.metrics.reconstruction import Reconstruction, reconstruct
from starflow.media.frames import psnr, to_frames, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline


def test_it_encodes_and_decodes(pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction):
    truth = to_tensor(clips.frames)
    video = pipeline.codec.decode(pipeline.codec.encode(truth))
    np.testing.assert_array_equal(clean.frames, to_frames(video))
    torch.testing.assert_close(clean.psnr, psnr(video, truth))
    assert clean.results["num_clips"] == 3
    assert clean.results["psnr"]["mean"] == pytest.approx(clean.psnr.mean().item())


def test_it_does_not_depend_on_the_batch(
    pipeline: StarFlowPipeline, clips: CaptionedClips, clean: Reconstruction, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reconstruction, "TOKENS_AT_ONCE", 24)  # two clips
    apart = reconstruct(pipeline, clips.frames, "")
    torch.testing.assert_close(apart.latents, clean.latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(apart.psnr, clean.psnr)
