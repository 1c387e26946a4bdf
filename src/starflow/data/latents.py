"""A cache of the latents of a source's clips on disk, so that each clip is encoded once.

A cache is a folder:

    cache.json                   identifies the source, the autoencoder and the format of the clips
    clips-0000000.safetensors    latents of the clips from number 0 on, float16, with the names of `fit_clip`
    clips-0000000.json           the captions of these clips, and the clips that were left out
    left_out.txt                 all clips that were left out, with the reasons

Encoding can be interrupted. The next run continues with the first unfinished shard.

Legend: `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from starflow.data.clip import ClipSource
from starflow.data.fitting import ClipFormat, fit_clip, read_clip
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError
from starflow.media.files import atomic_write
from starflow.media.frames import Frames, to_tensor

FORMAT = 4  # version of the files
CLIPS_PER_SHARD = 64
BYTES_AT_ONCE = 2**24  # about this many bytes of frames are encoded together: many small clips, or one large clip
NAMED_ON_TERMINAL = 10


@dataclass(frozen=True)
class CachedClip:
    """A clip of the cache, without its latents.

    Attributes:
        index: its number in the source.
        num_latent_frames: `T`, 1 for a picture.
        captions, image_captions: of the clip, and of its first frame.
        instructions: of its edits, by their number in the source's clip.
    """

    index: int
    num_latent_frames: int
    captions: list[str]
    image_captions: list[str]
    instructions: dict[int, str]


class LatentCache:
    """The clips of a finished cache. Latents stay on disk, in memory-mapped files.

    Attributes:
        clips: in the order of the source.
        num_latent_frames: `T` of a video of the model.
        left_out: the clips of the source that are not in the cache, with the reasons.
    """

    def __init__(self, folder: Path, num_latent_frames: int) -> None:
        """Raises StarflowError if a shard is damaged."""
        self.num_latent_frames = num_latent_frames
        self.clips: list[CachedClip] = []
        self.left_out: list[str] = []
        self._files: dict[int, safe_open] = {}
        for path in sorted(folder.glob("clips-*.safetensors")):
            file, about = _open_shard(path)
            clips = [_cached_clip(**clip) for clip in about["clips"]]
            self.clips += clips
            self.left_out += about["left_out"]
            self._files |= {clip.index: file for clip in clips}

    def read(self, index: int, name: str, start: int = 0, length: int | None = None) -> Tensor:
        """Latents of clip `index`, float32 `(T, D, H, W)`: all frames from `start` on, or `length` of them."""
        stop = None if length is None else start + length
        return self._files[index].get_slice(f"{index}.{name}")[start:stop].float()


def open_latent_cache(
    folder: Path, source: ClipSource, codec: VideoCodec, clip_format: ClipFormat, show_progress: bool = True
) -> LatentCache:
    """The latent cache in `folder`. Missing shards are encoded first.

    Clips that cannot be read, clips that are too short, and the files that the source lists in `left_out` are left out.
    The terminal and `left_out.txt` list them with the reasons.

    Raises:
        UsageError: the autoencoder cannot encode clips of this format.
        StarflowError: the folder holds other latents or a damaged shard, or no clip can be used.
    """
    _, num_latent_frames, *_ = codec.latent_shape(1, clip_format.num_frames, clip_format.height, clip_format.width)
    _check_origin(folder, source, codec, clip_format)
    missing = {path: indices for path, indices in _shards(folder, len(source)).items() if not _is_finished(path)}
    total, initial = len(source), len(source) - sum(map(len, missing.values()))
    with tqdm(total=total, initial=initial, desc="encoding clips", unit="clip", disable=not show_progress) as progress:
        for path, indices in missing.items():
            _write_shard(path, source, indices, codec, clip_format, progress)
    cache = LatentCache(folder, num_latent_frames)
    cache.left_out[:0] = getattr(source, "left_out", [])
    _tell_left_out(cache.left_out, folder / "left_out.txt")
    if not cache.clips:
        reason = f": {cache.left_out[0]}" if cache.left_out else ""
        raise StarflowError(f"the source has no clip to train on{reason}")
    return cache


def fingerprint(codec: VideoCodec) -> str:
    """A digest of the settings, the normalisation and the weights of the encoder."""
    settings = {name: value for name, value in codec.vae.config.items() if not name.startswith("_")}
    settings["later_frame_scale"] = codec.later_frame_scale
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(codec.vae.state_dict().items()):
        if name.startswith(("decoder.", "post_quant_conv.")):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_origin(folder: Path, source: ClipSource, codec: VideoCodec, clip_format: ClipFormat) -> None:
    origin = {"format": FORMAT, "source": source.fingerprint, "vae": fingerprint(codec), **asdict(clip_format)}
    path = folder / "cache.json"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(origin, indent=2))
        return
    found = json.loads(path.read_text())
    words = {"format": "another version", "source": "another source", "vae": "another autoencoder"}
    differences = [
        words.get(name) or f"{name} {found.get(name)} instead of {value}"
        for name, value in origin.items()
        if found.get(name) != value
    ]
    if differences:
        raise StarflowError(
            f"the latents in {folder} were made with {' and '.join(differences)}: choose another folder "
            "(latents=FOLDER), or remove this one"
        )


def _shards(folder: Path, num_clips: int) -> dict[Path, range]:
    """The files of latents, and the indices of the clips in each."""
    starts = range(0, num_clips, CLIPS_PER_SHARD)
    return {
        folder / f"clips-{start:07d}.safetensors": range(start, min(start + CLIPS_PER_SHARD, num_clips))
        for start in starts
    }


def _is_finished(path: Path) -> bool:
    return path.exists() and path.with_suffix(".json").exists()


def _write_shard(
    path: Path, source: ClipSource, indices: range, codec: VideoCodec, clip_format: ClipFormat, progress: tqdm
) -> None:
    clips: list[dict[str, Any]] = []
    left_out: list[str] = []
    latents: dict[str, Tensor] = {}
    waiting: dict[str, Frames] = {}
    for index in indices:
        progress.update()
        try:
            clip = read_clip(source, index, clip_format)
        except StarflowError as error:
            left_out.append(str(error))
            continue
        videos, reasons = fit_clip(clip, clip_format, codec)
        left_out += [f"{clip.name or f'clip {index}'}: {reason}" for reason in reasons]
        if not videos:
            continue
        about = {
            "index": index,
            "num_latent_frames": codec.num_latent_frames(len(videos["clip"])),
            "captions": list(clip.captions),
            "image_captions": list(clip.image_captions or clip.captions),
            "instructions": {j: edit.instruction for j, edit in enumerate(clip.edits) if f"edit.{j}" in videos},
        }
        clips.append(about)
        waiting |= {f"{index}.{name}": video for name, video in videos.items()}
        if sum(video.nbytes for video in waiting.values()) >= BYTES_AT_ONCE:
            latents |= _encode(codec, waiting)
            waiting = {}
    latents |= _encode(codec, waiting)
    with atomic_write(path) as temporary:
        save_file(latents, temporary)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"clips": clips, "left_out": left_out}))


def _encode(codec: VideoCodec, videos: dict[str, Frames]) -> dict[str, Tensor]:
    """The latents of videos, float16 `(T, D, H, W)`. Videos of the same length are encoded together."""
    names_by_length: dict[int, list[str]] = defaultdict(list)
    for name, video in videos.items():
        names_by_length[len(video)].append(name)
    latents: dict[str, Tensor] = {}
    for names in names_by_length.values():
        encoded = codec.encode(torch.stack([to_tensor(videos[name]) for name in names])).half().cpu()
        latents |= {name: each.clone() for name, each in zip(names, encoded, strict=True)}
    return latents


def _open_shard(path: Path) -> tuple[safe_open, dict[str, Any]]:
    try:
        return safe_open(path, framework="pt"), json.loads(path.with_suffix(".json").read_text())
    except (SafetensorError, json.JSONDecodeError) as error:
        raise StarflowError(f"{path} is damaged ({error}): remove it, and it will be encoded again") from error


def _cached_clip(instructions: dict[str, str], **about: Any) -> CachedClip:
    return CachedClip(instructions={int(j): instruction for j, instruction in instructions.items()}, **about)


def _tell_left_out(left_out: Sequence[str], path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in left_out), encoding="utf-8")
    for line in left_out[:NAMED_ON_TERMINAL]:
        tqdm.write(f"left out: {line}")
    if len(left_out) > NAMED_ON_TERMINAL:
        tqdm.write(f"left out: {len(left_out) - NAMED_ON_TERMINAL} more, named in {path}")
