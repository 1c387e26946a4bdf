"""Images and clips given to the pipeline, long videos, and streams, with tiny random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from starflow.errors import StarflowError, UsageError
from starflow.media.video import write_video
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline

PROMPT = CAPTIONS[0]
EXACT = {"tolerance": 1e-6, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip(num_frames: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)


def reconstruction(pipeline: StarFlowPipeline, frames: np.ndarray) -> torch.Tensor:
    """The frames encoded and decoded by the VAE: `(F, 3, height, width)` in [0, 1]."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    return pipeline.codec.decode(pipeline.codec.encode(video))[0] / 2 + 0.5


def make(pipeline: StarFlowPipeline, **options) -> torch.Tensor:
    return pipeline(PROMPT, generator=seeded(), output_type="pt", **(EXACT | options)).frames[0]


def test_an_image_becomes_the_first_frame_and_affects_later_frames(pipeline: StarFlowPipeline):
    image = clip(1)[0]
    video = make(pipeline, image=image)
    assert video.shape == (9, 3, 32, 32)
    torch.testing.assert_close(video[:1], reconstruction(pipeline, image[None]), atol=1e-5, rtol=0)
    torch.testing.assert_close(make(pipeline, image=Image.fromarray(image)), video)
    other = make(pipeline, image=clip(1, seed=1)[0])
    assert not torch.allclose(video[1:], other[1:], atol=1e-3)


def test_extending_a_clip_keeps_its_frames_and_adds_new_ones(pipeline: StarFlowPipeline):
    given = clip(13)
    video = make(pipeline, extend=given, num_frames=29)
    assert video.shape[0] == 29
    torch.testing.assert_close(video[:13], reconstruction(pipeline, given), atol=1e-5, rtol=0)
    assert make(pipeline, extend=given).shape[0] == 13 + 8  # by default, all but one of the model's 9 frames are new
    with pytest.raises(UsageError, match="longer"):
        make(pipeline, extend=given, num_frames=13)


def test_an_edited_video_is_as_long_as_its_source_and_depends_on_it(pipeline: StarFlowPipeline):
    video = make(pipeline, video=clip(9))
    assert video.shape[0] == 9
    assert not torch.allclose(video, make(pipeline, video=clip(9, seed=1)), atol=1e-3)
    assert make(pipeline, video=clip(5)).shape[0] == 5
    with pytest.raises(UsageError, match="as long as its source"):
        make(pipeline, video=clip(5), num_frames=9)
    with pytest.raises(UsageError, match="at most the 9 frames"):
        make(pipeline, video=clip(13))


def test_video_to_video_puts_the_source_first_and_marks_the_prompt(pipeline: StarFlowPipeline):
    plan = pipeline.plan(PROMPT, video=clip(9), generator=seeded())
    noise = plan.sampling.noise
    assert noise.shape[1] == 6
    torch.testing.assert_close(plan.sampling.text, pipeline.encode_prompt(["(v2v) " + PROMPT], 8))
    frames = make(pipeline, video=clip(9), latents=noise)
    moved = noise.clone()
    moved[:, :3] += 1  # the noise of given frames is not used
    torch.testing.assert_close(make(pipeline, video=clip(9), latents=moved), frames)


def test_a_last_image_works_alone_and_with_a_first_image(pipeline: StarFlowPipeline):
    last, first = clip(1)[0], clip(1, seed=1)[0]
    alone = make(pipeline, last_image=last)
    both = make(pipeline, last_image=last, image=first)
    assert alone.shape[0] == both.shape[0] == 9
    assert not torch.allclose(alone, make(pipeline, last_image=first), atol=1e-3)
    torch.testing.assert_close(both[:1], reconstruction(pipeline, first[None]), atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="at most the 9 frames"):
        make(pipeline, last_image=last, num_frames=13)


def test_a_batch_takes_one_image_per_prompt(pipeline: StarFlowPipeline):
    images = list(clip(2))
    options = EXACT | {"output_type": "pt"}
    both = pipeline(CAPTIONS[:2], image=images, generator=[seeded(0), seeded(1)], **options).frames
    for index in range(2):
        alone = pipeline(CAPTIONS[index], image=images[index], generator=seeded(index), **options).frames[0]
        torch.testing.assert_close(both[index], alone, atol=1e-3, rtol=0)
    with pytest.raises(UsageError, match="list with one picture for each of the"):
        pipeline(CAPTIONS[:2], image=images[:1])


def test_conflicting_inputs_and_images_of_another_dtype_are_refused(pipeline: StarFlowPipeline):
    with pytest.raises(UsageError, match="exclude each other"):
        make(pipeline, image=clip(1)[0], video=clip(9))
    with pytest.raises(UsageError, match="uint8"):
        make(pipeline, image=clip(1)[0].astype(int))


def test_an_image_may_be_a_path_a_tensor_or_a_list_of_one(pipeline: StarFlowPipeline, tmp_path):
    image = clip(1)[0]
    video = make(pipeline, image=image)
    Image.fromarray(image).save(tmp_path / "first.png")
    path = tmp_path / "first.png"
    for same in (path, str(path), [path], torch.from_numpy(image).permute(2, 0, 1), [Image.fromarray(image)]):
        torch.testing.assert_close(make(pipeline, image=same), video)


def test_a_clip_may_be_a_path_which_is_resampled_to_the_rate(pipeline: StarFlowPipeline, tmp_path):
    path = write_video(tmp_path / "clip.webp", clip(18).repeat(2, axis=0), 32)
    assert make(pipeline, video=path).shape[0] == 9
    with pytest.raises(StarflowError, match="no such file"):
        make(pipeline, video=tmp_path / "missing.mp4")


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_a_video_can_be_extended_by_the_frames_of_an_output(pipeline: StarFlowPipeline, output_type: str):
    output = pipeline(PROMPT, generator=seeded(), output_type=output_type, **EXACT)
    video = make(pipeline, extend=output.frames)
    assert video.shape[0] == 9 + 8
    given = pipeline(PROMPT, generator=seeded(), output_type="pt", **EXACT).frames
    if output_type == "latent":
        torch.testing.assert_close(video[:9], given[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(make(pipeline, extend=output.frames[0]), video)
    else:
        torch.testing.assert_close(video, make(pipeline, extend=given))


# --- long videos and streams -----------------------------------------------------------------------------------------


def test_a_long_video_begins_like_a_short_one_and_depends_on_its_context(pipeline: StarFlowPipeline):
    noise = torch.randn(1, 8, 4, 2, 2, generator=seeded())
    short = make(pipeline, latents=noise[:, :3])
    long = make(pipeline, latents=noise, num_frames=29, context=2)
    assert long.shape[0] == 29
    # later frames of the short video differ, as the denoiser looks ahead
    torch.testing.assert_close(long[:5], short[:5], atol=1e-3, rtol=0)
    assert not torch.allclose(long, make(pipeline, latents=noise, num_frames=29, context=1), atol=1e-3)
    with pytest.raises(UsageError, match="context"):
        make(pipeline, num_frames=29, context=3)


@pytest.mark.parametrize("frames_at_once", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_frames": 29}, {"image": clip(1)[0]}, {"extend": clip(13)}, {"video": clip(9)}, {"num_frames": 1}],
    ids=["text", "long", "image", "extend", "video", "one frame"],
)
def test_streamed_frames_equal_those_of_the_whole_clip(pipeline: StarFlowPipeline, frames_at_once: int, options: dict):
    whole = make(pipeline, **options)
    with pipeline.stream(
        PROMPT, generator=seeded(), output_type="pt", frames_at_once=frames_at_once, **(EXACT | options)
    ) as stream:
        frames = list(stream)
    assert [frame.index for frame in frames] == list(range(stream.num_frames))
    assert [frame.time for frame in frames] == [index / 8 for index in range(stream.num_frames)]
    torch.testing.assert_close(torch.stack([frame.image for frame in frames]), whole, atol=1e-4, rtol=0)
    assert stream.report.deep.converged


def test_streamed_frames_equal_those_of_the_whole_clip_at_the_default_tolerance(pipeline: StarFlowPipeline):
    """A frame's values do not depend on how many are solved together."""
    options = {"num_frames": 29, "guidance_scale": 2.0}
    whole = pipeline(PROMPT, generator=seeded(), output_type="pt", **options).frames[0]
    stream = pipeline.stream(PROMPT, generator=seeded(), output_type="pt", **options)
    torch.testing.assert_close(torch.stack([frame.image for frame in stream]), whole, atol=1e-4, rtol=0)


def test_a_stream_yields_frames_before_the_video_is_finished(pipeline: StarFlowPipeline):
    made = []
    stream = pipeline.stream(
        PROMPT, generator=seeded(), num_frames=41, callback_on_step_end=lambda *step: made.append(step[1])
    )
    next(stream)
    assert max(made) == 1  # the tiny denoiser's one layer looks one latent frame ahead
    stream.close()
    assert list(stream) == []


def test_a_stream_of_several_prompts_or_of_latents_is_refused(pipeline: StarFlowPipeline):
    with pytest.raises(UsageError, match="one prompt"):
        pipeline.stream(CAPTIONS)
    with pytest.raises(UsageError, match="output type"):
        pipeline.stream(PROMPT, output_type="latent")


def test_a_stream_without_a_denoiser_equals_the_whole_clip(pipeline: StarFlowPipeline):
    bare = tiny_pipeline()
    bare.denoiser = None
    whole = make(bare)
    stream = bare.stream(PROMPT, generator=seeded(), output_type="pt", **EXACT)
    torch.testing.assert_close(torch.stack([frame.image for frame in stream]), whole, atol=1e-4, rtol=0)
