"""The latents of a source's clips on disk, so that the VAE runs once.

A cache is a folder of shards, each a safetensors file of latents and a JSON file of captions, and `cache.json`, which
says what it was made from: another VAE or source makes another cache.

Legend: `F` video frames, `T` latent frames, `D` latent channels, `H W` latent rows and columns.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from starflow.data.source import CaptionedClip, EditedClip, Toyworld
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError
from starflow.media.files import atomic_write

SHARD_SIZE = 1024
ENCODE_BATCH = 32
FORMAT = 3  # of the shards: the first had no cells, the second captions in pairs
KINDS = ("clips", "last_images", "edits", "long_clips")  # of latents; a shard lacks those it has none of
CELLS = ("clip_cells", "edit_cells")


@dataclass(frozen=True)
class LatentCache:
    """Latents and captions of `n` clips, of edits of the first `m` of them and of how the first `l` go on, in memory.

    clips `(n, T, D, H, W)`; last_images `(n, 1, D, H, W)`, each clip's last frame encoded as an image; edits
    `(m, T, D, H, W)`; long_clips `(l, longer T, D, H, W)`, which begin with the clips; clip_cells `(n, 3, H, W)` and
    edit_cells `(m, 3, H, W)`, what is seen where in first frames (`starflow.toyworld.teaching.cells.ground`).
    """

    clips: Tensor
    last_images: Tensor
    edits: Tensor
    long_clips: Tensor
    clip_cells: Tensor
    edit_cells: Tensor
    captions: list[list[str]]
    image_captions: list[list[str]]
    instructions: list[str]


def open_latent_cache(
    folder: Path,
    source: Toyworld,
    codec: VideoCodec,
    num_clips: int,
    num_edits: int,
    num_long_clips: int,
    show_progress: bool = True,
) -> LatentCache:
    """The latent cache in `folder`, made first (or made complete) if it is not there.

    Raises StarflowError if the folder holds the cache of another VAE or source, or a damaged shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"num_clips": num_clips, "num_edits": num_edits, "num_long_clips": num_long_clips}
    _check_origin(folder, {"format": FORMAT, "source": asdict(source), "vae": fingerprint(codec), **numbers})
    starts = range(0, num_clips, SHARD_SIZE)
    shards = []
    for start in tqdm(starts, "encoding clips", unit="shard", disable=not show_progress, mininterval=1):
        stop = min(start + SHARD_SIZE, num_clips)
        path = folder / f"clips-{start:07d}.safetensors"
        if not path.exists() or not path.with_suffix(".json").exists():
            counts = (max(0, min(stop, number) - start) for number in (num_edits, num_long_clips))
            _write_shard(path, source, codec, range(start, stop), *counts)
        shards.append(_read_shard(path))
    tensors, texts = zip(*shards, strict=True)
    joined = {
        name: torch.cat([shard[name] for shard in tensors if name in shard] or [torch.empty(0)])
        for name in KINDS + CELLS
    }
    return LatentCache(
        **joined,
        captions=[caption for text in texts for caption in text["captions"]],
        image_captions=[caption for text in texts for caption in text["image_captions"]],
        instructions=[instruction for text in texts for instruction in text["instructions"]],
    )


def fingerprint(codec: VideoCodec) -> str:
    """A digest of what makes latents: settings, normalisation and all weights but the decoder's; not of its folder."""
    settings = {name: value for name, value in codec.vae.config.items() if not name.startswith("_")}
    settings["later_frame_scale"] = codec.later_frame_scale
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(codec.vae.state_dict().items()):
        if name.startswith(("decoder.", "post_quant_conv.")):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def to_video_tensor(clips: Iterable[NDArray[np.uint8]]) -> Tensor:
    """uint8 clips `(F, height, width, 3)` → float `(B, F, 3, height, width)` in [-1, 1]."""
    return torch.from_numpy(np.stack(list(clips))).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def _check_origin(folder: Path, origin: dict[str, Any]) -> None:
    path = folder / "cache.json"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(origin, indent=2))
    elif json.loads(path.read_text()) != origin:
        raise StarflowError(
            f"{folder} holds the latents of another VAE or other clips: remove it, or name another folder"
        )


@torch.no_grad()
def _encode(codec: VideoCodec, videos: list[NDArray[np.uint8]]) -> Tensor:
    batches = [videos[i : i + ENCODE_BATCH] for i in range(0, len(videos), ENCODE_BATCH)]
    return torch.cat([codec.encode(to_video_tensor(batch)).half() for batch in batches])


def _write_shard(
    path: Path, source: Toyworld, codec: VideoCodec, indices: range, num_edits: int, num_long_clips: int
) -> None:
    clips: list[CaptionedClip] = [source.clip(index) for index in indices]
    edits: list[EditedClip] = [source.edit(index) for index in indices[:num_edits]]
    videos = {
        "clips": [clip.video for clip in clips],
        "last_images": [clip.video[-1:] for clip in clips],
        "edits": [edit.video for edit in edits],
        "long_clips": [source.long_video(index) for index in indices[:num_long_clips]],
    }
    texts = {
        "captions": [clip.captions for clip in clips],
        "image_captions": [clip.image_captions for clip in clips],
        "instructions": [edit.instruction for edit in edits],
    }
    cells = {"clip_cells": [clip.cells for clip in clips], "edit_cells": [edit.cells for edit in edits]}
    tensors = {kind: _encode(codec, videos[kind]).contiguous() for kind in KINDS if videos[kind]}
    tensors |= {kind: torch.from_numpy(np.stack(cells[kind])) for kind in CELLS if cells[kind]}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(texts))


def _read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, list[Any]]]:
    try:
        return load_file(path), json.loads(path.with_suffix(".json").read_text())
    except (SafetensorError, json.JSONDecodeError) as error:
        raise StarflowError(f"{path} is damaged ({error}): remove it, and it will be made again") from error
