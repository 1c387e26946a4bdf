"""Clips of any size, rate and length, fitted to those that a model is trained on.

Legend: `F` video frames.
"""

from dataclasses import dataclass

from starflow.data.clip import Clip, ClipSource, read_fitted
from starflow.encoders.video import VideoCodec
from starflow.media.frames import Frames, fit_frames, resample

LONGEST = 5  # times the length of a model's clips: what is kept of a long clip, for continuations


@dataclass(frozen=True)
class ClipFormat:
    """What clips are fitted to. `num_frames` is the length of the clips that the model makes in one piece."""

    num_frames: int
    fps: float
    height: int
    width: int


def read_clip(source: ClipSource, index: int, to: ClipFormat) -> Clip:
    """A clip for `fit_clip`, read no larger, faster or longer than it needs if the source can do so.

    Raises StarflowError if it cannot be read.
    """
    longest = 1 + LONGEST * (to.num_frames - 1)
    return read_fitted(source, index, to.height, to.width, to.fps, longest)


def fit_clip(clip: Clip, to: ClipFormat, codec: VideoCodec) -> tuple[dict[str, Frames], list[str]]:
    """The videos of a clip that training needs, by name, and why any of them is missing.

    Returns:
        `clip`, a picture or a video of at least `num_frames` frames; of a video also `last`, the last frame of the
        first `num_frames`, as a picture, and `edit.j`, edit number `j`, of `num_frames` frames. All are
        uint8 `(F, height, width, 3)` with an `F` that the autoencoder can take. A clip that is too short gives nothing.
    """
    if clip.fps == 0 or len(clip.video) == 1 or to.num_frames == 1:
        return {"clip": _fitted(clip.video[:1], to)}, []
    video = resample(clip.video, clip.fps, to.fps)
    if len(video) < to.num_frames:
        return {}, [f"has {len(video)} frames at {to.fps:g} fps, and the model's clips have {to.num_frames}"]
    longest = codec.largest_num_frames(min(len(video), 1 + LONGEST * (to.num_frames - 1)))
    videos = {"clip": _fitted(video[:longest], to)}
    videos["last"] = videos["clip"][to.num_frames - 1 : to.num_frames]
    reasons = []
    for j, edit in enumerate(clip.edits):
        edited = resample(edit.video, clip.fps, to.fps)[: to.num_frames]
        if len(edited) < to.num_frames:
            reasons.append(f"its edit {edit.instruction!r} has only {len(edited)} frames at {to.fps:g} fps")
        else:
            videos[f"edit.{j}"] = _fitted(edited, to)
    return videos, reasons


def _fitted(frames: Frames, to: ClipFormat) -> Frames:
    return fit_frames(frames, to.height, to.width)
