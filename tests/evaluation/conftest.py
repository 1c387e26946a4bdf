"""A tiny model and a few clips for the tests of the metrics."""

import numpy as np
import pytest
import torch

from starflow.evaluation.clips import CaptionedClips, read_clips
from starflow.evaluation.metrics.reconstruction import Reconstruction, reconstruct
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline
from tiny_source import ListOfClips, noise_clip


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline()


@pytest.fixture(scope="module")
def source() -> ListOfClips:
    rng = np.random.default_rng(0)
    return ListOfClips([noise_clip(rng, caption) for caption in CAPTIONS])


@pytest.fixture(scope="module")
def clips(pipeline: StarFlowPipeline, source: ListOfClips) -> CaptionedClips:
    return read_clips(source, pipeline, 3)


@pytest.fixture(scope="module")
def clean(pipeline: StarFlowPipeline, clips: CaptionedClips) -> Reconstruction:
    return reconstruct(pipeline, clips.frames, "")
