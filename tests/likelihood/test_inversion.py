import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from plans import sample
from starflow.errors import StarflowError, UsageError
from starflow.likelihood.inversion import ClipNoise, decode_clip, encode_clip, load_noise, save_noise
from starflow.pipeline.inputs import encode_clips
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline()


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def noise(pipeline: StarFlowPipeline, clip: np.ndarray) -> ClipNoise:
    return encode_clip(pipeline, clip, CAPTIONS[0], seed=4)


def noised_latents(pipeline: StarFlowPipeline, clip: np.ndarray, seed: int) -> torch.Tensor:
    latents = encode_clips(pipeline.codec, [clip], (32, 32))
    return latents + 0.3 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", ["sequential", "block-jacobi"])
def test_the_round_trip_is_exact_in_float64(clip: np.ndarray, sampler: str):
    exact = tiny_pipeline()
    exact.flow.double()
    noise = encode_clip(exact, clip, CAPTIONS[0], seed=4)
    assert noise.z.dtype == torch.float64
    text = exact.encode_prompt(CAPTIONS[:1], 8)
    x, report = sample(
        exact.flow,
        noise.z[None],
        text,
        solver=exact.plan(CAPTIONS[0], sampler=sampler, tolerance=1e-12).sampling.solvers,
    )
    assert report.deep.converged and report.shallow.converged
    torch.testing.assert_close(x.float(), noised_latents(exact, clip, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(exact.flow.encode(x, text).z[0], noise.z, atol=1e-10, rtol=0)


def test_decode_clip_returns_the_denoised_clip(pipeline: StarFlowPipeline, clip: np.ndarray, noise: ClipNoise):
    text = pipeline.encode_prompt(CAPTIONS[:1], 8)
    clean = pipeline.denoise(noised_latents(pipeline, clip, 4), text)
    torch.testing.assert_close(decode_clip(pipeline, noise, output_type="latent").frames, clean, atol=1e-3, rtol=0)
    expected = (pipeline.codec.decode(clean) + 1) / 2
    torch.testing.assert_close(decode_clip(pipeline, noise, output_type="pt").frames, expected, atol=1e-3, rtol=0)


def test_another_caption_gives_another_clip(pipeline: StarFlowPipeline, noise: ClipNoise):
    own, named, other = (
        decode_clip(pipeline, noise, prompt, "latent").frames for prompt in (None, CAPTIONS[0], CAPTIONS[1])
    )
    assert torch.equal(own, named)
    assert (own - other).abs().max() > 0.01


def test_a_noise_file_contains_the_noise_and_its_settings(noise: ClipNoise, tmp_path: Path):
    path = tmp_path / "new" / "z.safetensors"
    save_noise(noise, path)
    loaded = load_noise(path)
    assert torch.equal(loaded.z, noise.z)
    assert replace(loaded, z=noise.z) == noise
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["z"]
        metadata = {name: json.loads(value) for name, value in file.metadata().items() if name != "format"}
    assert metadata == {
        "prompt": CAPTIONS[0],
        "fps": 8,
        "num_frames": 9,
        "height": 32,
        "width": 32,
        "noise_seed": 4,
        "noise_std": 0.3,
    }


def test_bad_noise_files_are_errors(noise: ClipNoise, tmp_path: Path):
    path = tmp_path / "z.safetensors"
    with pytest.raises(StarflowError, match="no such file"):
        load_noise(path)
    path.write_bytes(b"")
    with pytest.raises(StarflowError, match="damaged"):
        load_noise(path)
    save_noise(noise, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StarflowError, match="damaged"):
        load_noise(path)
    save_file({"z": noise.z.contiguous()}, path)
    with pytest.raises(StarflowError, match="contains no noise"):
        load_noise(path)
    save_file({"z": noise.z.contiguous()}, path, {"format": "starflow noise", "prompt": '"x"'})
    with pytest.raises(StarflowError, match="damaged"):
        load_noise(path)
    save_noise(replace(noise, z=noise.z * torch.nan), path)
    with pytest.raises(StarflowError, match="NaN"):
        load_noise(path)


def test_noise_of_another_model_is_an_error(pipeline: StarFlowPipeline, noise: ClipNoise):
    with pytest.raises(UsageError, match="this model needs"):
        decode_clip(pipeline, replace(noise, z=noise.z[:, :2]))
