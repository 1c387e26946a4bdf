"""Filling a latent cache with the clips of a source that it lacks.

Legend: `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from starflow.data.clip import Clip, ClipSource, action_space, clip_identity, left_out
from starflow.data.fitting import ClipFormat, Excerpt, find_excerpts, fit_clip, read_excerpt
from starflow.data.latents import KIND, LatentCache, Record, Shards, origin
from starflow.data.shards import DIGEST, digest_of, wait_for_all, write_shard
from starflow.data.workers import workers
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError
from starflow.flow.actions import latent_features
from starflow.media.files import atomic_write
from starflow.media.frames import Frames, to_tensor

CLIPS_PER_SHARD = 64
BYTES_AT_ONCE = 2**24  # about this many bytes of frames are encoded together: many small clips, or one large clip
NAMED_ON_TERMINAL = 10


def open_latent_cache(
    folder: Path,
    source: ClipSource,
    codec: VideoCodec,
    clip_format: ClipFormat,
    *,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    show_progress: bool = True,
) -> LatentCache:
    """The latent cache in `folder`. What it lacks is encoded first.

    Clips that cannot be read, clips that are too short, and what the source lists in `left_out` are left out. The
    terminal and `left_out.txt` list them with the reasons. Of several processes, joined by `torch.distributed`, each
    encodes its share and waits for the others.

    Args:
        folder: of the cache.
        source: the clips.
        codec: the autoencoder.
        clip_format: what clips are fitted to.
        num_workers: processes that read clips; 0: this process does.
        rank, world_size: of this process among those that fill the cache together.
        show_progress: whether to show a progress bar with the time left.

    Raises:
        UsageError: the autoencoder cannot encode clips of this format.
        StarflowError: a shard is damaged or cannot be written, or no clip can be used.
    """
    identities = encode_source(
        folder,
        source,
        codec,
        clip_format,
        num_workers=num_workers,
        rank=rank,
        world_size=world_size,
        show_progress=show_progress,
    )
    wait_for_all(world_size)
    shards = Shards(folder, origin(codec, clip_format))
    cache = LatentCache(shards, source, identities, codec, clip_format)
    cache.left_out[:0] = left_out(source)
    if rank == 0:
        tell_left_out(cache.left_out, folder / "left_out.txt")
    if not cache.clips:
        reason = f": {cache.left_out[0]}" if cache.left_out else ""
        raise StarflowError(f"the source has no clip to train on{reason}")
    return cache


def encode_source(
    folder: Path,
    source: ClipSource,
    codec: VideoCodec,
    clip_format: ClipFormat,
    *,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    show_progress: bool = True,
) -> NDArray[np.bytes_]:
    """Encode the share of this process of the clips that a cache lacks, as `open_latent_cache` does.

    Returns the identities of all clips of the source.
    """
    for bucket in clip_format.buckets:
        codec.latent_shape(1, *bucket)  # raises UsageError
    made_with = origin(codec, clip_format)
    shards, identities = Shards(folder, made_with), identities_of(source)
    is_missing = is_first(identities) & (shards.identities.find(identities) < 0)
    if rank == 0:
        for line in describe_changes(folder, shards, identities, is_missing.sum()):
            tqdm.write(line)
    # A share depends on the place in the source only: the others may have begun to fill the folder.
    is_mine = np.arange(len(identities)) // CLIPS_PER_SHARD % world_size == rank
    mine = [int(index) for index in np.flatnonzero(is_missing & is_mine)]
    reader = _Reader(source, clip_format, codec.temporal_factor)
    with (
        workers(num_workers if mine else 0, reader) as pool,
        tqdm(total=len(mine), desc="encoding clips", unit="clip", disable=not (show_progress and mine)) as progress,
        _Writer(folder, codec, made_with) as writer,
    ):
        parts = pool.map(_Reader.read, _flatten(pool.map(_Reader.find, mine)))
        for index, excerpts in groupby(parts, key=lambda part: part.index):
            writer.add(identities[index].decode(), excerpts)
            progress.update()
        writer.finish()
    return identities


def identities_of(source: ClipSource) -> NDArray[np.bytes_]:
    """A digest of the identity of each clip of a source."""
    digests = (digest_of(clip_identity(source, index).encode()) for index in range(len(source)))
    return np.fromiter(digests, DIGEST, len(source))


def is_first(identities: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Whether each clip is the first one with its identity. Copies of a clip share its latents."""
    first = np.zeros(len(identities), np.bool_)
    first[np.unique(identities, return_index=True)[1]] = True
    return first


def describe_changes(folder: Path, shards: Shards, identities: NDArray[np.bytes_], num_missing: int) -> Iterator[str]:
    """Lines for the terminal: what a cache lacks, and what in it is of no use. Nothing for a new or complete cache."""
    cached = np.unique(shards.identities.digests)
    unused = np.setdiff1d(cached, identities).size
    stale = [f"{number} were made {difference}" for difference, number in shards.stale.items()]
    stale += [f"{unused} are not, or not as they are now, in the source"] if unused else []
    if stale:
        yield f"{folder} has latents of clips that are stale: {'; '.join(stale)}. They are not used."
    if num_missing and (stale or len(cached)):
        yield f"{num_missing} of {is_first(identities).sum()} clips are new or changed, and are encoded"


def tell_left_out(reasons: Sequence[str], path: Path) -> None:
    """Write the reasons to a file, and the first of them to the terminal."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in reasons), encoding="utf-8")
    for line in reasons[:NAMED_ON_TERMINAL]:
        tqdm.write(f"left out: {line}")
    if len(reasons) > NAMED_ON_TERMINAL:
        tqdm.write(f"left out: {len(reasons) - NAMED_ON_TERMINAL} more, named in {path}")


@dataclass(frozen=True)
class _Part:
    """An excerpt of clip `index` of the source, or why it has none."""

    index: int
    excerpt: Excerpt | None
    reason: str = ""


@dataclass(frozen=True)
class _FittedPart:
    """The videos of an excerpt, uint8 `(F, height, width, 3)`, and what is known of it. Empty if it is left out.

    `actions` are features of latent frames, `(T, E)`.
    """

    index: int
    videos: dict[str, Tensor]
    about: dict[str, Any]
    reasons: list[str]
    actions: Tensor | None = None


@dataclass(frozen=True)
class _Reader:
    """Reads and fits clips, in this process or in others."""

    source: ClipSource
    clip_format: ClipFormat
    temporal_factor: int

    def find(self, index: int) -> list[_Part]:
        try:
            return [_Part(index, excerpt) for excerpt in find_excerpts(self.source, index, self.clip_format)]
        except StarflowError as error:
            return [_Part(index, None, str(error))]

    def read(self, part: _Part) -> _FittedPart:
        if part.excerpt is None:
            return _FittedPart(part.index, {}, {}, [part.reason])
        try:
            clip = read_excerpt(self.source, part.index, part.excerpt, self.clip_format)
        except StarflowError as error:
            return _FittedPart(part.index, {}, {}, [str(error)])
        videos, reasons = fit_clip(clip, self.clip_format, self.temporal_factor)
        reasons = [f"{clip.name}: {reason}" for reason in reasons]
        if not videos:
            return _FittedPart(part.index, {}, {}, reasons)
        num_frames, height, width, _ = videos["clip"].shape
        length = self.clip_format.length_for(num_frames) if "last" in videos else 1
        about = {
            "bucket": [length, height, width],
            "captions": list(clip.captions),
            "image_captions": list(clip.image_captions or clip.captions),
            "instructions": {j: edit.instruction for j, edit in enumerate(clip.edits) if f"edit.{j}" in videos},
            "has_actions": clip.actions is not None,
        }
        tensors = {name: torch.from_numpy(video) for name, video in videos.items()}
        return _FittedPart(part.index, tensors, about, reasons, self._actions(clip, num_frames))

    def _actions(self, clip: Clip, num_frames: int) -> Tensor | None:
        if clip.actions is None:
            return None
        space = action_space(self.source)
        if space is None:
            raise StarflowError(f"{clip.name} has actions, but its source declares no action space")
        features = space.features(space.check(clip.actions[:num_frames], num_frames))
        return latent_features(features, self.temporal_factor)


def _flatten(found: Iterable[list[_Part]]) -> Iterator[_Part]:
    for parts in found:
        yield from parts


class _Writer:
    """Encodes clips and writes them in shards. If encoding is interrupted, what is encoded is written."""

    def __init__(self, folder: Path, codec: VideoCodec, made_with: dict[str, Any]) -> None:
        self.folder, self.codec, self.made_with = folder, codec, made_with
        self._records: list[Record] = []  # encoded, not yet written
        self._latents: dict[str, Tensor] = {}
        self._waiting: list[Record] = []  # not yet encoded
        self._videos: dict[str, Frames] = {}

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        if self._records:
            self._write()

    def add(self, identity: str, parts: Iterable[_FittedPart]) -> None:
        """Add a clip of the source, in excerpts."""
        record = Record(identity, [], [])
        for number, part in enumerate(parts):
            record.left_out.extend(part.reasons)
            if not part.videos:
                continue
            num_latent_frames = self.codec.num_latent_frames(len(part.videos["clip"]))
            record.clips.append({"number": number, "num_latent_frames": num_latent_frames, **part.about})
            self._videos |= {f"{identity}.{number}.{name}": video.numpy() for name, video in part.videos.items()}
            if part.actions is not None:
                self._latents[f"{identity}.{number}.actions"] = part.actions
            if sum(video.nbytes for video in self._videos.values()) >= BYTES_AT_ONCE:
                self._encode()
        self._waiting.append(record)
        if not self._videos:
            self._encode()  # nothing is left to encode: the records are complete
        if len(self._records) + len(self._waiting) >= CLIPS_PER_SHARD:
            self.finish()

    def finish(self) -> None:
        """Encode what waits, and write it."""
        self._encode()
        if self._records:
            self._write()

    def _encode(self) -> None:
        self._latents |= encode_videos(self.codec, self._videos)
        self._records += self._waiting
        self._videos, self._waiting = {}, []

    def _write(self) -> None:
        records = [asdict(record) for record in self._records]
        write_shard(self.folder, KIND, self._latents, {"made_with": self.made_with, "records": records})
        self._records, self._latents = [], {}


def encode_videos(codec: VideoCodec, videos: dict[str, Frames]) -> dict[str, Tensor]:
    """The latents of videos, float16 `(T, D, H, W)`. Videos of the same shape are encoded together."""
    names_by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, video in videos.items():
        names_by_shape[video.shape].append(name)
    latents: dict[str, Tensor] = {}
    for names in names_by_shape.values():
        encoded = codec.encode(torch.stack([to_tensor(videos[name]) for name in names])).half().cpu()
        latents |= {name: each.clone() for name, each in zip(names, encoded, strict=True)}
    return latents
