"""Pictures and clips in every form that people have them."""

import numpy as np
import pytest
import torch
from PIL import Image

from starflow.errors import UsageError
from starflow.pipeline.pictures import CLIP, PICTURE, one_each, to_uint8

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(FRAMES).permute(0, 3, 1, 2)
CLIPS = {
    "uint8 array": FRAMES,
    "float array": FRAMES / 255,
    "array with channels first": np.moveaxis(FRAMES, -1, -3),
    "uint8 tensor": TENSOR,
    "float tensor": TENSOR / 255,
    "float64 tensor that requires a gradient": (TENSOR.double() / 255).requires_grad_(),
    "tensor with channels last": torch.from_numpy(FRAMES),
    "PIL images": [Image.fromarray(frame) for frame in FRAMES],
    "list of arrays": list(FRAMES),
    "list of tensors": list(TENSOR / 255),
}


@pytest.mark.parametrize("form", CLIPS)
def test_every_form_of_a_clip_gives_the_same_frames(form: str):
    frames = to_uint8("video", CLIPS[form])
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, FRAMES)
    np.testing.assert_array_equal(to_uint8("image", CLIPS[form][0]), FRAMES[0])


@pytest.mark.parametrize("form", CLIPS)
def test_a_prompt_takes_a_clip_or_a_list_of_one(form: str):
    clip = CLIPS[form]
    for value in (clip, [clip], (clip,)):
        (one,) = one_each("video", value, 1, CLIP)
        assert one is clip
    (picture,) = one_each("image", clip[:1], 1, PICTURE)
    np.testing.assert_array_equal(to_uint8("image", picture), FRAMES[0])
    assert len(one_each("video", [clip, clip], 2, CLIP)) == len(one_each("image", clip, 2, PICTURE)) == 2


def test_a_path_is_one_picture_or_clip():
    assert one_each("image", "a.png", 1, PICTURE) == one_each("video", ["a.png"], 1, CLIP) == ["a.png"]
    assert one_each("video", ["a.mp4", "b.mp4"], 2, CLIP) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("value", "num_prompts", "message"),
    [
        ([], 1, "video is empty"),
        ([[]], 1, "video is empty"),
        (FRAMES[0], 1, "must be one clip for one prompt, not uint8 of the shape"),
        ([FRAMES, FRAMES], 1, "must be one clip for one prompt, not list of 2"),
        (FRAMES, 2, "must be a list with one clip for each of the 2 prompts"),
        ([FRAMES], 2, "must be a list with one clip for each of the 2 prompts, not list of 1"),
        (7, 1, "video cannot be int"),
        ([None], 1, "video cannot be NoneType"),
    ],
)
def test_a_wrong_number_of_clips_is_refused(value: object, num_prompts: int, message: str):
    with pytest.raises(UsageError, match=message):
        one_each("video", value, num_prompts, CLIP)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([Image.new("RGB", (2, 2)), Image.new("RGB", (4, 4))], "must have the same size"),
        ([FRAMES[0], None], "video cannot be NoneType"),
        (FRAMES[:0], "must be RGB pictures with 3 channels"),
        (FRAMES[..., :1], "must be RGB pictures with 3 channels, not uint8 of the shape"),
        (FRAMES.astype(np.int64), "must be uint8, or floats in"),
        (FRAMES.astype(np.float32), "floats of video must be in"),
        (FRAMES / 127.5 - 1, "floats of video must be in"),
        (np.full((2, 4, 6, 3), np.nan), "floats of video must be in"),
    ],
)
def test_values_that_are_not_rgb_frames_are_refused(value: object, message: str):
    with pytest.raises(UsageError, match=message):
        to_uint8("video", value)
