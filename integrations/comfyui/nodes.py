"""The nodes. ComfyUI's `IMAGE` is a tensor (F, height, width, 3) in [0, 1]; `0` in a field is the model's setting."""

from typing import Any

import torch
from torch import Tensor

from starflow.hardware.placement import place
from starflow.likelihood.score import log_likelihood
from starflow.media.frames import Frames, from_unit
from starflow.pipeline.pipeline import StarFlowPipeline

MODEL = "STARFLOW_MODEL"
MAX_SEED = 2**63 - 1
DTYPES = ["float32", "bfloat16", "float16"]


class LoadModel:
    """A bundled model, a folder or a hub id, on a device."""

    CATEGORY, FUNCTION = "starflow", "load"
    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("STRING", {"default": "toyworld"}),
                "device": (["cpu", "cuda", "mps"],),
                "dtype": (DTYPES,),
            }
        }

    def load(self, model: str, device: str, dtype: str) -> tuple[StarFlowPipeline]:
        return (place(StarFlowPipeline.from_pretrained(model, dtype=getattr(torch, dtype)), device),)


class MakeVideo:
    """A video from text, from its first or last picture, or from a clip that is edited or continued."""

    CATEGORY, FUNCTION = "starflow", "make"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "FLOAT"), ("frames", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        count = {"default": 0, "min": 0, "max": 100_000}
        return {
            "required": {
                "model": (MODEL,),
                "prompt": ("STRING", {"multiline": True}),
                "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED}),
                "num_frames": ("INT", count),
                "width": ("INT", count),
                "height": ("INT", count),
                "guidance_scale": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1}),
            },
            "optional": dict.fromkeys(("image", "last_image", "video", "extend"), ("IMAGE",)),
        }

    def make(
        self,
        model: StarFlowPipeline,
        prompt: str,
        seed: int,
        num_frames: int,
        width: int,
        height: int,
        guidance_scale: float,
        **given: Tensor | None,
    ) -> tuple[Tensor, float]:
        options = {"num_frames": num_frames, "width": width, "height": height, "guidance_scale": guidance_scale}
        options = {name: value for name, value in options.items() if value}
        frames = {name: _frames(tensor) for name, tensor in given.items() if tensor is not None}
        frames |= {name: frames[name][0] for name in ("image", "last_image") if name in frames}
        output = model(prompt, generator=torch.Generator().manual_seed(seed), output_type="np", **options, **frames)
        return torch.from_numpy(output.frames[0]).float(), float(model.config.fps)


class MeasureSurprise:
    """How likely a clip is under a prompt: bits per dimension, and the surprise of each token over the frames."""

    CATEGORY, FUNCTION = "starflow", "measure"
    RETURN_TYPES, RETURN_NAMES = ("FLOAT", "IMAGE"), ("bits_per_dim", "surprise")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL,),
                "clip": ("IMAGE",),
                "prompt": ("STRING", {"multiline": True}),
                "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED}),
            }
        }

    def measure(self, model: StarFlowPipeline, clip: Tensor, prompt: str, seed: int) -> tuple[float, Tensor]:
        (likelihood,) = log_likelihood(model, _frames(clip), [prompt], seed=seed)
        surprise = likelihood.surprise.float().cpu()  # (T, H, W)
        scaled = (surprise - surprise.min()) / (surprise.max() - surprise.min()).clamp(min=1e-6)
        pictures = torch.nn.functional.interpolate(scaled[:, None], clip.shape[1:3])[:, 0]
        return likelihood.bits_per_dim, pictures[..., None].expand(-1, -1, -1, 3)


def _frames(tensor: Tensor) -> Frames:
    return from_unit(tensor.cpu().numpy())


NODE_CLASS_MAPPINGS = {
    "StarFlowLoadModel": LoadModel,
    "StarFlowMakeVideo": MakeVideo,
    "StarFlowMeasureSurprise": MeasureSurprise,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "StarFlowLoadModel": "starflow: load a model",
    "StarFlowMakeVideo": "starflow: make a video",
    "StarFlowMeasureSurprise": "starflow: measure the surprise",
}
