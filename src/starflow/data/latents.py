"""A cache of the latents of a source's clips on disk, so that each clip is encoded once.

A cache is a folder of shards, `clips-*.safetensors`: the latents of some clips in float16, with the names of
`fit_clip`, the features of each latent frame's action in float32, if clips have actions, and in the header of the file

    made_with    the version of the files, the autoencoder, and the format of the clips
    records      of each clip of a source: its identity, the captions of its excerpts, and what was left out and why

`left_out.txt` lists all clips that were left out, with the reasons. A shard is written once and never changed. Which
clips are missing follows from their identities, so encoding can be interrupted, and a changed source or autoencoder
costs only what is new. Latents of an earlier source or autoencoder stay until the user removes them.

`starflow.data.encoding` fills the cache.

Legend: `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from starflow.data.buckets import Bucket
from starflow.data.clip import ClipSource, action_space
from starflow.data.disk_list import DiskList
from starflow.data.fitting import ClipFormat
from starflow.data.mixture import clip_weights
from starflow.data.shards import DIGEST, Digests, mapped_shard, open_shard, weights_digest
from starflow.encoders.video import VideoCodec

FORMAT = 5  # version of the files
KIND = "clips"
ROW = np.dtype([("identity", DIGEST), ("num_clips", np.uint32)])  # of a record
WORDS = {"format": "by another version", "vae": "with another autoencoder"}


@dataclass(frozen=True)
class CachedClip:
    """A clip of the cache, without its latents.

    Attributes:
        index: its number in the source. Excerpts of one clip have the same number.
        num_latent_frames: `T`, 1 for a picture.
        captions, image_captions: of the clip, and of its first frame.
        instructions: of its edits, by their number in the source's clip.
        bucket: its size in pixels, and the length of the clips that training takes of it; 1 for a picture.
        has_actions: whether its actions are known.
        file: the shard with its latents.
        key: with which the names of its latents begin.
        weight: how often it is drawn, relative to other clips.
    """

    index: int
    num_latent_frames: int
    captions: list[str]
    image_captions: list[str]
    instructions: dict[int, str]
    bucket: Bucket
    has_actions: bool = False
    file: str = field(default="", compare=False)
    key: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Record:
    """What a cache holds of one clip of a source: its excerpts, and why others were left out."""

    identity: str
    clips: list[dict[str, Any]]
    left_out: list[str]


class Shards:
    """The shards of a folder.

    Attributes:
        records: what was made with this autoencoder and format: the shard of each record, and the record.
        identities: of the clips of the source that the records are of.
        num_clips: of each record.
        stale: how many clips were made with anything else, by the difference.

    Raises StarflowError if one is damaged.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any]) -> None:
        self.stale: Counter[str] = Counter()
        rows = [np.empty(0, ROW)]
        self.records = DiskList(self._read(folder, made_with, rows), _load_record)
        table = np.concatenate(rows)
        self.identities, self.num_clips = Digests(table["identity"].copy()), table["num_clips"]

    def _read(
        self, folder: Path, made_with: dict[str, Any], rows: list[NDArray[Any]]
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted(folder.glob(f"{KIND}-*.safetensors")):
            _, about = open_shard(path)
            records = about["records"]
            if difference := _difference(about["made_with"], made_with):
                self.stale[difference] += len(records)
                continue
            rows.append(np.array([(record["identity"], len(record["clips"])) for record in records], ROW))
            for record in records:
                yield path, record


def _load_record(value: list[Any]) -> tuple[str, Record]:
    path, record = value
    return path, Record(**record)


def origin(codec: VideoCodec, clip_format: ClipFormat) -> dict[str, Any]:
    """What latents are made with, as JSON."""
    return {"format": FORMAT, "vae": vae_digest(codec), **json.loads(json.dumps(asdict(clip_format)))}


def vae_digest(codec: VideoCodec) -> str:
    """A digest of the settings, the normalisation and the weights of the encoder."""
    settings = {name: value for name, value in codec.vae.config.items() if not name.startswith("_")}
    settings["later_frame_scale"] = codec.later_frame_scale
    weights = codec.vae.state_dict().items()
    return weights_digest(settings, (each for each in weights if not each[0].startswith(("decoder.", "post_quant"))))


class LatentCache:
    """The clips of a source that are in a cache. Latents stay on disk, in memory-mapped files, and so do the clips.

    Attributes:
        clips: in the order of the source.
        bucket: that of the model.
        num_latent_frames: `T` of a video of the model.
        action_space: of the clips; None if they have no actions.
        left_out: the clips of the source that are not in the cache, with the reasons.
    """

    def __init__(
        self,
        shards: Shards,
        source: ClipSource,
        identities: NDArray[np.bytes_],
        codec: VideoCodec,
        clip_format: ClipFormat,
    ) -> None:
        """
        Args:
            shards: the latents.
            source: whose clips these are.
            identities: of the source's clips, all of which have a record.
            codec: the autoencoder.
            clip_format: of the clips.
        """
        self.codec = codec
        self.bucket = Bucket(clip_format.num_frames, clip_format.height, clip_format.width)
        self.num_latent_frames = codec.num_latent_frames(clip_format.num_frames)
        self.action_space = action_space(source)
        self.left_out: list[str] = []
        places = shards.identities.find(identities)
        weights = clip_weights(source, shards.num_clips[places])
        self.clips: Sequence[CachedClip] = DiskList(self._clips(shards, places, weights), _load_clip)

    def _clips(
        self, shards: Shards, places: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> Iterator[dict[str, Any]]:
        """The values of the clips."""
        for index, (place, weight) in enumerate(zip(places, weights, strict=True)):
            file, record = shards.records[place]
            self.left_out += record.left_out
            for clip in record.clips:
                key = f"{record.identity}.{clip.pop('number')}"
                yield {"index": index, "file": file, "key": key, "weight": float(weight), **clip}

    def read(self, clip: CachedClip, name: str, start: int = 0, length: int | None = None) -> Tensor:
        """Latents of a clip, float32 `(T, D, H, W)`: all frames from `start` on, or `length` of them.

        `actions` are features `(T, E)`.
        """
        stop = None if length is None else start + length
        return mapped_shard(clip.file).get_slice(f"{clip.key}.{name}")[start:stop].float()

    def grid(self, bucket: Bucket) -> tuple[int, int, int]:
        """`T`, `H` and `W` of a clip of a bucket."""
        _, frames, _, rows, columns = self.codec.latent_shape(1, *bucket)
        return frames, rows, columns


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What latents were made with instead of what is wanted; empty if it is the same."""
    if found.get("format") != wanted["format"]:
        return WORDS["format"]
    differences = [
        WORDS.get(name) or f"with {name} {_text(found.get(name))} instead of {_text(value)}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    return " and ".join(differences)


def _text(value: Any) -> str:
    return "none" if value == [] else str(value)


def _load_clip(value: dict[str, Any]) -> CachedClip:
    edits = {int(j): instruction for j, instruction in value["instructions"].items()}
    return CachedClip(**value | {"instructions": edits, "bucket": Bucket(*value["bucket"])})
