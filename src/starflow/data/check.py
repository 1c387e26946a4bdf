"""What a source holds, before any training: its clips, their buckets, and what cannot be used and why."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from starflow.data.buckets import Bucket
from starflow.data.clip import ClipSource, left_out
from starflow.data.fitting import ClipFormat, find_excerpts, fit_clip, read_excerpt
from starflow.data.reading import OpenClip, open_clip
from starflow.data.workers import workers
from starflow.errors import StarflowError
from starflow.media.frames import Frames
from starflow.media.sizes import nearest_aspect_ratio

SHEET_CLIPS, SHEET_FRAMES, SHEET_HEIGHT = 24, 6, 96  # clips on the contact sheet, frames of each, pixels
DIGEST_FRAMES, DIGEST_SIDE = 3, 32  # frames that are compared to find duplicates, pixels


@dataclass(frozen=True)
class CheckedClip:
    """A clip that was decoded from start to end.

    Attributes:
        name: of the clip.
        height, width: in pixels.
        fps: frames per second; 0 for a picture.
        num_frames: at this rate.
        captions: of the clip.
        digest: of a few of its frames, made small.
        thumbnails: frames for the contact sheet, uint8 `(F, height, width, 3)`; None if it is not on it.
        buckets: of its excerpts; empty without a format.
        reasons: why excerpts of it are left out.
    """

    name: str
    height: int
    width: int
    fps: float
    num_frames: int
    captions: list[str]
    digest: str
    thumbnails: Frames | None
    buckets: list[Bucket]
    reasons: list[str]

    @property
    def seconds(self) -> float:
        """The duration; 0 for a picture."""
        return self.num_frames / self.fps if self.fps else 0.0


@dataclass(frozen=True)
class Report:
    """What a source holds.

    Attributes:
        clips: those that can be read.
        left_out: what cannot be used, each with the reason.
        duplicates: clips with the same frames as an earlier one.
        long_captions: captions that the text encoder cuts off; None if it is not known.
        buckets: the number of excerpts in each bucket; None without a format.
    """

    clips: list[CheckedClip]
    left_out: list[str]
    duplicates: list[str]
    long_captions: list[str] | None
    buckets: dict[Bucket, int] | None

    @property
    def summary(self) -> dict[str, Any]:
        """The report as JSON."""
        videos = [clip for clip in self.clips if clip.fps]
        buckets = None if self.buckets is None else [(bucket, number) for bucket, number in self.buckets.items()]
        return {
            "videos": len(videos),
            "pictures": len(self.clips) - len(videos),
            "seconds": round(sum(clip.seconds for clip in videos), 2),
            "captions": sum(len(clip.captions) for clip in self.clips),
            "sizes": _counts(f"{clip.width}x{clip.height}" for clip in self.clips),
            "aspect_ratios": _counts(nearest_aspect_ratio(clip.width, clip.height) for clip in self.clips),
            "rates": _counts(f"{clip.fps:.4g}" for clip in videos),
            "frames": [min(lengths), max(lengths)] if (lengths := [clip.num_frames for clip in videos]) else None,
            "buckets": buckets and [{**bucket._asdict(), "clips": number} for bucket, number in buckets],
            "left_out": self.left_out,
            "duplicates": self.duplicates,
            "long_captions": self.long_captions,
        }


def check_source(
    source: ClipSource,
    clip_format: ClipFormat | None = None,
    cut_off: Callable[[str], str] | None = None,
    num_workers: int = 0,
    show_progress: bool = True,
) -> Report:
    """Decode every clip of a source, and report what is there.

    Args:
        source: the clips.
        clip_format: what training fits them to; None: buckets are not counted.
        cut_off: the part of a caption that the text encoder does not take, or an empty text.
        num_workers: processes that decode; 0: this process does.
        show_progress: whether to show a progress bar with the time left.
    """
    clips: list[CheckedClip] = []
    reasons = left_out(source)
    with workers(num_workers, _Checker(source, clip_format)) as pool:
        checks = pool.map(_Checker.check, range(len(source)))
        progress = tqdm(checks, "checking clips", len(source), unit="clip", disable=not show_progress, leave=False)
        for checked in progress:
            if isinstance(checked, str):
                reasons.append(checked)
            else:
                clips.append(checked)
                reasons += checked.reasons
    found = Counter(bucket for clip in clips for bucket in clip.buckets)
    return Report(
        clips,
        reasons,
        _duplicates(clips),
        None if cut_off is None else _long_captions(clips, cut_off),
        None if clip_format is None else {bucket: found[bucket] for bucket in clip_format.buckets},
    )


@dataclass(frozen=True)
class _Checker:
    """Decodes clips, in this process or in others."""

    source: ClipSource
    clip_format: ClipFormat | None

    def check(self, index: int) -> CheckedClip | str:
        """What clip `index` of the source is, or why it cannot be read."""
        try:
            with open_clip(self.source, index, fps=0) as clip:
                clip.check()
                height, width = clip.size
                wide = SHEET_HEIGHT, max(1, round(SHEET_HEIGHT * width / height))
                on_sheet = index < SHEET_CLIPS
                digest = hashlib.sha256(_some_frames(clip, DIGEST_FRAMES, (DIGEST_SIDE, DIGEST_SIDE)).tobytes())
                thumbnails = _some_frames(clip, SHEET_FRAMES, wide) if on_sheet else None
                about = (clip.name, height, width, clip.fps, clip.num_frames(), list(clip.captions))
            buckets, reasons = self._buckets(index)
        except StarflowError as error:
            return str(error)
        return CheckedClip(*about, digest.hexdigest(), thumbnails, buckets, reasons)

    def _buckets(self, index: int) -> tuple[list[Bucket], list[str]]:
        """The buckets of the excerpts of a clip, and why others are left out."""
        to = self.clip_format
        buckets: list[Bucket] = []
        reasons: list[str] = []
        for excerpt in [] if to is None else find_excerpts(self.source, index, to):
            assert to is not None
            clip = read_excerpt(self.source, index, excerpt, to)
            videos, missing = fit_clip(clip, to, temporal_factor=1)
            reasons += [f"{clip.name}: {reason}" for reason in missing]
            if videos:
                num_frames, height, width, _ = videos["clip"].shape
                buckets.append(Bucket(to.length_for(num_frames) or 1, height, width))
        return buckets, reasons


def _some_frames(clip: OpenClip, number: int, size: tuple[int, int]) -> Frames:
    """Evenly spaced frames of a clip, from the first to the last."""
    shown = np.unique(np.linspace(0, clip.num_frames() - 1, number).round().astype(int)).tolist()
    return np.concatenate([clip.read(frame / (clip.fps or 1), 1, size).video for frame in shown])


def _duplicates(clips: Iterable[CheckedClip]) -> list[str]:
    first: dict[tuple[str, int], str] = {}
    lines = []
    for clip in clips:
        name = first.setdefault((clip.digest, clip.num_frames), clip.name)
        if name != clip.name:
            lines.append(f"{clip.name} shows the same as {name}")
    return lines


def _long_captions(clips: Iterable[CheckedClip], cut_off: Callable[[str], str]) -> list[str]:
    return [
        f"{clip.name}: the end of the caption is cut off, from {rest[:40]!r} on"
        for clip in clips
        for caption in clip.captions
        if (rest := cut_off(caption))
    ]


def _counts(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())
