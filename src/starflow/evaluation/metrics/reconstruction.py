"""What the autoencoder keeps of a clip."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from starflow.encoders.video import VideoCodec
from starflow.evaluation.clips import Frames, batches, to_frames, to_video
from starflow.evaluation.statistics import summary


@dataclass(frozen=True)
class Reconstruction:
    """Latents `(n, T, D, H, W)` of clips, their decoded frames `(n, F, height, width, 3)`, and PSNR in dB `(n,)`."""

    latents: Tensor
    frames: Frames
    psnr: Tensor

    def results(self) -> dict[str, Any]:
        """What `evaluation.json` says of it."""
        return {"num_clips": len(self.psnr), "psnr": summary(self.psnr)}


def clip_psnr(video: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip in dB, `(B,)`, from its mean squared error; values span 2."""
    error = (video - truth).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def reconstruct(codec: VideoCodec, clips: Frames, batch_size: int, description: str) -> Reconstruction:
    """Encode and decode clips `(n, F, height, width, 3)`."""
    latents, frames, psnr = [], [], []
    with tqdm(total=len(clips), desc=description, unit="clip", disable=None) as bar:
        for batch in batches(len(clips), batch_size):
            video = to_video(clips[batch]).to(codec.vae.device)
            encoded = codec.encode(video)
            decoded = codec.decode(encoded)
            latents.append(encoded)
            frames.append(to_frames(decoded))
            psnr.append(clip_psnr(decoded, video).cpu())
            bar.update(len(video))
    return Reconstruction(torch.cat(latents), np.concatenate(frames), torch.cat(psnr))
