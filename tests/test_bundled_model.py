"""The bundled model: it is complete and small, was evaluated, and follows captions."""

import json

import numpy as np
import pytest
import torch

import sample_digests
from plans import sample
from starflow.encoders.vocabulary import unknown_words
from starflow.media.frames import from_unit
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.sampler import solvers_named
from starflow.toyworld.reader.checker import check
from starflow.toyworld.source import Toyworld
from starflow.weights.models import ZOO, bundled_models

FOLDER = ZOO / "toyworld"
PROMPTS = [
    "a red circle moves right",
    "a large blue square moves left",
    "a yellow triangle moves up",
    "a large green circle moves down",
    "a large white square grows",
    "a purple circle stays still",
]


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    pipeline = StarFlowPipeline.from_pretrained("toyworld")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]


def to_clips(frames: torch.Tensor) -> np.ndarray:
    return from_unit(frames.permute(0, 1, 3, 4, 2).numpy())


def test_the_bundled_model_is_complete_and_small():
    assert "toyworld" in bundled_models()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 40e6
    assert (FOLDER / "README.md").is_file()
    assert json.loads((FOLDER / "evaluation.json").read_text())["compliance"]["one_object"]["num_prompts"] >= 200


def test_the_bundled_model_has_the_parts_of_starflow_v(pipeline: StarFlowPipeline):
    assert len(pipeline.flow.shallow) >= 2
    assert pipeline.denoiser is not None
    _, num_latent_frames, _, height, width = pipeline.codec.latent_shape(1, 17, 64, 64)
    assert num_latent_frames >= 5
    assert height * width >= 16


def test_the_bundled_model_follows_simple_captions(pipeline: StarFlowPipeline):
    """A loose check for a broken model; `starflow evaluate` measures the quality."""
    clips = to_clips(pipeline(PROMPTS, generator=generators(), output_type="pt").frames)
    checks = [check(clip, prompt) for clip, prompt in zip(clips, PROMPTS, strict=True)]
    colors = [object_check.color for result in checks for object_check in result.objects]
    motions = [object_check.motion for result in checks for object_check in result.objects]
    assert sum(map(bool, colors)) >= 5
    assert sum(map(bool, motions)) >= 4


@pytest.fixture(scope="module")
def pipeline_in_float64() -> StarFlowPipeline:
    return sample_digests.load_in_float64()


@pytest.mark.parametrize("name", sample_digests.requests())
def test_the_same_noise_gives_the_stored_latents(pipeline_in_float64: StarFlowPipeline, name: str):
    want = torch.tensor(json.loads(sample_digests.STORED.read_text())[name], dtype=torch.float64)
    got = torch.tensor(sample_digests.digest(pipeline_in_float64, sample_digests.requests()[name]), dtype=torch.float64)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_the_default_sampler_agrees_with_the_sequential_one(pipeline: StarFlowPipeline):
    jacobi = pipeline(PROMPTS[:2], generator=generators()[:2], output_type="pt")
    sequential = pipeline(PROMPTS[:2], generator=generators()[:2], output_type="pt", sampler="sequential")
    assert jacobi.report.deep.converged
    assert (jacobi.frames - sequential.frames).abs().mean() < 1 / 255


@pytest.mark.parametrize("shallow_block_size", [1, 8])
def test_encoding_a_sample_gives_its_noise_within_the_tolerance(pipeline: StarFlowPipeline, shallow_block_size: int):
    """The tolerance bounds the residual of the whole flow, shallow blocks included, on trained weights."""
    text = pipeline.encode_prompt(PROMPTS[:2], fps=8)
    noise = torch.randn(pipeline.codec.latent_shape(2, 17, 64, 64), generator=generators()[0])
    solvers = solvers_named("sliding", tolerance=0.03, block_size=8, shallow_block_size=shallow_block_size)
    with torch.no_grad():
        x, report = sample(pipeline.flow, noise, text, solver=solvers)
        residual = (pipeline.flow.encode(x, text).z - noise).abs().max().item()
    assert report.deep.converged
    assert report.shallow.converged
    assert 0.5 * 0.03 < residual <= 0.03 + 1e-4  # rounding of float32 through all blocks


def test_the_bundled_model_knows_the_words_of_its_captions_only(pipeline: StarFlowPipeline):
    for clip in map(Toyworld(200, seed=7, edited=1.0).__getitem__, range(200)):
        for text in (*clip.captions, *clip.image_captions, *(edit.instruction for edit in clip.edits)):
            assert unknown_words(pipeline.tokenizer, text) == []
    assert unknown_words(pipeline.tokenizer, "a red piano moves right") == ["piano"]
