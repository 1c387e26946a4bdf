"""Memory of the latent cache. `test_encoding.py` has what it holds."""

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from clip_sources import ClipList
from starflow.data.fitting import ClipFormat
from starflow.data.latents import LatentCache, Shards
from starflow.data.shards import DIGEST, digest_of
from starflow.data.tasks import Mixture, TaskWeights
from starflow.encoders.video import VideoCodec
from tiny_pipeline import tiny_vae
from traced_memory import bytes_per_item

MADE_WITH = {"format": 0}


def test_a_clip_takes_few_bytes_of_memory(tmp_path: Path):
    codec = VideoCodec(tiny_vae())

    def bytes_kept(number: int) -> int:
        folder = tmp_path / str(number)
        identities = [digest_of(str(index).encode()) for index in range(number)]
        write_headers(folder, identities)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        shards = Shards(folder, MADE_WITH)
        cache = LatentCache(shards, ClipList([]), np.array(identities, DIGEST), codec, ClipFormat(9, 8, 32, 32))
        del shards, identities
        mixture = Mixture(cache, TaskWeights(), 8)
        gc.collect()
        assert len(cache.clips) == len(mixture.material["last"][cache.bucket]) == number
        assert cache.clips[-1].captions == [f"caption {number - 1} of some length"]
        return tracemalloc.get_traced_memory()[0] - before

    assert bytes_per_item(bytes_kept) < 30  # three tasks, of 6 bytes each, and what the lists have in reserve


def write_headers(folder: Path, identities: list[str]) -> None:
    """Shards of 50 clips without their latents."""
    folder.mkdir()
    for first in range(0, len(identities), 50):
        records = []
        for number, identity in enumerate(identities[first : first + 50], start=first):
            captions = [f"caption {number} of some length"]
            clip = {
                "number": 0,
                "num_latent_frames": 3,
                "bucket": [9, 32, 32],
                "instructions": {},
                "captions": captions,
            }
            records.append({"identity": identity, "clips": [clip | {"image_captions": captions}], "left_out": []})
        about = json.dumps({"made_with": MADE_WITH, "records": records})
        save_file({"nothing": torch.zeros(1)}, folder / f"clips-{first:06d}.safetensors", {"about": about})
