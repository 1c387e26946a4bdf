import logging
from pathlib import Path

import numpy as np
import pytest

from starflow.data.folder import ClipFolder
from starflow.errors import StarflowError, UsageError
from starflow.evaluation.clips import batches, read_clips
from starflow.media.video import write_video
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import tiny_pipeline
from tiny_source import ListOfClips, noise_clip

RNG = np.random.default_rng(0)


def test_clips_of_the_models_size_are_unchanged(pipeline: StarFlowPipeline, source: ListOfClips):
    clips = read_clips(source, pipeline, 2)
    assert clips.captions == [clip.captions[0] for clip in source.clips[:2]]
    np.testing.assert_array_equal(clips.frames, np.stack([clip.video for clip in source.clips[:2]]))
    assert clips.left_out == []


def test_clips_are_fitted_to_size_rate_and_length(pipeline: StarFlowPipeline):
    clip = noise_clip(RNG, "a dog", num_frames=40, fps=16, height=48, width=64)
    clips = read_clips(ListOfClips([clip]), pipeline, 1)
    assert clips.frames.shape == (1, 9, 32, 32, 3)


def test_a_clip_at_twice_the_rate_keeps_every_second_frame(pipeline: StarFlowPipeline):
    clip = noise_clip(RNG, "a dog", num_frames=40, fps=16)
    (frames,) = read_clips(ListOfClips([clip]), pipeline, 1).frames
    np.testing.assert_array_equal(frames, clip.video[0:18:2])


def test_unsuitable_clips_are_left_out_and_logged(pipeline: StarFlowPipeline, caplog: pytest.LogCaptureFixture):
    short = noise_clip(RNG, "a short clip", num_frames=16, fps=16)
    picture = noise_clip(RNG, "a picture", num_frames=1, fps=0)
    good = noise_clip(RNG, "a good clip")
    with caplog.at_level(logging.WARNING):
        clips = read_clips(ListOfClips([short, picture, good]), pipeline, 3)
    assert clips.captions == ["a good clip"]
    assert clips.left_out == caplog.messages
    assert 'clip 0 ("a short clip") is left out: it has 8 frames at 8 per second' in caplog.messages[0]
    assert 'clip 1 ("a picture") is left out: it is a picture' in caplog.messages[1]
    with pytest.raises(UsageError, match=r"no clip can be used .*a short clip"):
        read_clips(ListOfClips([short, picture]), pipeline, 3)


def test_an_image_model_takes_pictures_and_first_frames():
    model = tiny_pipeline(num_frames=1)
    clip, picture = noise_clip(RNG, "a clip"), noise_clip(RNG, "a pond", num_frames=1, fps=0)
    clips = read_clips(ListOfClips([clip, picture]), model, 2)
    assert clips.captions == ["a picture of a clip", "a picture of a pond"]
    np.testing.assert_array_equal(clips.frames, [clip.video[:1], picture.video])


def test_a_long_video_is_read_only_as_far_as_needed(pipeline: StarFlowPipeline, tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, 8)
    (tmp_path / "a.txt").write_text("a dog")
    source = ClipFolder(str(tmp_path))
    content = (tmp_path / "a.mp4").read_bytes()  # the end of the pictures is damaged
    (tmp_path / "a.mp4").write_bytes(content[: len(content) * 7 // 10] + bytes(len(content) - len(content) * 7 // 10))
    assert read_clips(source, pipeline, 1).frames.shape == (1, 9, 32, 32, 3)
    with pytest.raises(StarflowError, match="corrupt"):
        source[0]


def test_a_folder_of_clips_is_read(pipeline: StarFlowPipeline, tmp_path: Path):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", noise_clip(RNG, "").video, 8)
        (tmp_path / f"{name}.txt").write_text(f"clip {name}\n")
    clips = read_clips(ClipFolder(str(tmp_path)), pipeline, 5)
    assert clips.captions == ["clip a", "clip b"]
    assert clips.frames.shape == (2, 9, 32, 32, 3)


def test_batches_have_a_limited_number_of_tokens(pipeline: StarFlowPipeline):
    # A clip of this model has 3·2·2 = 12 tokens.
    assert list(batches(pipeline, 5, 24)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(batches(pipeline, 2, 1)) == [slice(0, 1), slice(1, 2)]
