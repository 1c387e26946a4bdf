import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from starflow.encoders.text import tiny_text_encoder
from starflow.errors import StarflowError, UsageError
from starflow.flow.denoiser import CausalDenoiser
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, HEAD_DIM, TEXT_WIDTH, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    return tiny_pipeline(guidance_scale=2.0)


def video(pipeline: StarFlowPipeline, prompt: str = CAPTIONS[0], seed: int = 0, **options: object) -> torch.Tensor:
    options = {"generator": torch.Generator().manual_seed(seed), "output_type": "pt"} | options
    return pipeline(prompt, **options).frames


# --- components that do not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("vae", AutoencoderKL(latent_channels=8), "the VAE has 8 latent channels, but the flow is made for 4"),
        ("vae", AutoencoderTiny(), "not AutoencoderTiny"),
        ("text_encoder", tiny_text_encoder(300, 32, 1), "has 32 channels, but the flow is made for 16"),
        (
            "denoiser",
            CausalDenoiser(6, HEAD_DIM, 1, HEAD_DIM, TEXT_WIDTH, position_length=2),
            "the denoiser has 6 latent channels, but the flow is made for 4",
        ),
    ],
)
def test_components_that_do_not_fit_are_refused(name: str, part: object, message: str, pipeline: StarFlowPipeline):
    with pytest.raises(UsageError, match=message):
        StarFlowPipeline(**pipeline.components | {name: part})
    other = StarFlowPipeline.from_pipe(pipeline)
    setattr(other, name, part)
    with pytest.raises(UsageError, match=message):
        other(CAPTIONS[0])


def test_a_saved_model_with_a_vae_of_another_width_is_refused(pipeline: StarFlowPipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    AutoencoderKL(latent_channels=8).save_pretrained(tmp_path / "vae")
    index = (tmp_path / "model_index.json").read_text().replace("AutoencoderKLWan", "AutoencoderKL")
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(StarflowError, match=r"cannot load .* the VAE has 8 latent channels"):
        StarFlowPipeline.from_pretrained(tmp_path)


# --- warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, None),
        ({"height": 96, "width": 16, "num_frames": 25}, None),
        ({"width": 112}, "a width of 112 pixels is far from the 32"),
        ({"guidance_scale": 7.5}, "guidance_scale 7.5 is far above the 2"),
        ({"num_frames": 185}, "185 frames are more than 20 times the 9"),
        ({"last_image": torch.rand(3, 32, 32)}, "last_image: is met roughly"),
    ],
)
def test_what_is_far_from_training_is_warned_of(options: dict, message: str | None, caplog: pytest.LogCaptureFixture):
    pipeline = tiny_pipeline(guidance_scale=2.0, caveats={"last_image": "is met roughly"})
    with caplog.at_level(logging.WARNING, "starflow"):
        pipeline.plan(CAPTIONS[0], **options)
    assert len(caplog.messages) == (message is not None)
    assert message is None or message in caplog.text


def test_unknown_words_are_named_once(caplog: pytest.LogCaptureFixture):
    pipeline = tiny_pipeline()
    with caplog.at_level(logging.WARNING, "starflow"):
        for prompt in ("a red piano moves", "a piano in Paris", "a red circle"):
            pipeline.plan(prompt)
    first, second = caplog.messages
    assert "knows nothing of 'piano'" in first
    assert "knows nothing of 'in', 'paris'" in second


# --- threads and copies -----------------------------------------------------------------------------------------------


def test_threads_that_share_a_pipeline_make_the_videos_of_a_single_one(pipeline: StarFlowPipeline):
    seeds = range(8)
    alone = [video(pipeline, CAPTIONS[seed % 3], seed) for seed in seeds]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: video(pipeline, CAPTIONS[seed % 3], seed), seeds))
    assert all(map(torch.equal, alone, together))


def test_a_stream_and_a_call_share_a_pipeline(pipeline: StarFlowPipeline):
    expected = video(pipeline)[0]
    generator = torch.Generator().manual_seed(0)
    frames = []
    for frame in pipeline.stream(CAPTIONS[0], output_type="pt", generator=generator):
        frames.append(frame.image)
        video(pipeline, CAPTIONS[1], 1, num_frames=5)
    torch.testing.assert_close(torch.stack(frames), expected)


def test_a_pickled_pipeline_makes_the_same_video(pipeline: StarFlowPipeline):
    assert torch.equal(video(pickle.loads(pickle.dumps(pipeline))), video(pipeline))
