"""A complete pipeline with tiny random weights."""

from collections.abc import Sequence

from diffusers import AutoencoderKLWan

from invertible_maps import randomize
from starflow.encoders.text import tiny_text_encoder, train_tokenizer, wrap_caption
from starflow.flow.actions import ActionSpace
from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.model import StarFlow
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import VAEModelConfig
from starflow.train.vae import build_vae

CAPTIONS = ["a red circle moves right", "a blue square grows", "two green triangles bounce"]
LATENT_CHANNELS, TEXT_WIDTH, HEAD_DIM = 4, 16, 20


def tiny_vae(temporal_downsample: Sequence[bool] = (True, True)) -> AutoencoderKLWan:
    """A VAE that compresses 16× in space and, by default, 4× in time, like the bundled one."""
    model = VAEModelConfig(
        base_dim=4, z_dim=LATENT_CHANNELS, dim_mult=[1, 1, 1], temporal_downsample=list(temporal_downsample)
    )
    return build_vae(model).eval()


def tiny_pipeline(**config: object) -> StarFlowPipeline:
    """A pipeline for 32×32 videos of 9 frames: 3 latent frames of 2×2 tokens."""
    tokenizer = train_tokenizer([wrap_caption(caption, fps=8) for caption in CAPTIONS], 300)
    flow = StarFlow(LATENT_CHANNELS, [1, 1], 1, HEAD_DIM, HEAD_DIM, HEAD_DIM, TEXT_WIDTH, position_length=2)
    denoiser = CausalDenoiser(LATENT_CHANNELS, HEAD_DIM, 1, HEAD_DIM, TEXT_WIDTH, position_length=2)
    defaults = {"noise_std": 0.3, "num_frames": 9, "fps": 8, "height": 32, "width": 32, "max_text_tokens": 32}
    pipeline = StarFlowPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(len(tokenizer), TEXT_WIDTH, layers=1, heads=2).eval(),
        tokenizer=tokenizer,
        flow=randomize(flow, dtype=flow.dtype),
        denoiser=randomize(denoiser, dtype=denoiser.dtype),
        **(defaults | config),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def playable_pipeline(space: ActionSpace, **config: object) -> StarFlowPipeline:
    """A pipeline that takes actions, and makes a frame per step: no compression in time, no look-ahead.

    By default, its windows have 5 frames.
    """
    pipeline = tiny_pipeline(**({"num_frames": 5} | config))
    pipeline.flow.add_actions(space)
    denoiser = CausalDenoiser(LATENT_CHANNELS, HEAD_DIM, 1, HEAD_DIM, TEXT_WIDTH, position_length=2, temporal_causal=1)
    vae = tiny_vae(temporal_downsample=(False, False))
    pipeline.register_modules(
        flow=randomize(pipeline.flow, dtype=pipeline.flow.dtype),
        denoiser=randomize(denoiser, dtype=denoiser.dtype),
        vae=vae,
    )
    return pipeline
