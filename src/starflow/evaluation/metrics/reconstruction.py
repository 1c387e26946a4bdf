"""How well the autoencoder reconstructs clips.

Legend: `n` clips, `F` video frames, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from starflow.evaluation.clips import batches
from starflow.evaluation.statistics import summary
from starflow.media.frames import Frames, psnr, to_frames, to_tensor
from starflow.pipeline.pipeline import StarFlowPipeline

TOKENS_AT_ONCE = 800


@dataclass(frozen=True)
class Reconstruction:
    """Latents `(n, T, D, H, W)` of clips, decoded frames `(n, F, height, width, 3)`, and their PSNR in dB `(n,)`."""

    latents: Tensor
    frames: Frames
    psnr: Tensor

    @property
    def results(self) -> dict[str, Any]:
        """For `evaluation.json`."""
        return {"num_clips": len(self.psnr), "psnr": summary(self.psnr)}


def reconstruct(pipeline: StarFlowPipeline, clips: Frames, description: str) -> Reconstruction:
    """Encode and decode clips `(n, F, height, width, 3)`; the description is for the progress bar."""
    latents, frames, values = [], [], []
    with tqdm(total=len(clips), desc=description, unit="clip", disable=None) as bar:
        for batch in batches(pipeline, len(clips), TOKENS_AT_ONCE):
            video = to_tensor(clips[batch])
            encoded = pipeline.codec.encode(video)
            decoded = pipeline.codec.decode(encoded).cpu()
            latents.append(encoded)
            frames.append(to_frames(decoded))
            values.append(psnr(decoded, video))
            bar.update(len(video))
    return Reconstruction(torch.cat(latents), np.concatenate(frames), torch.cat(values))
