"""The causal denoiser: learns the flow's own score (flow-score matching, STARFlow-V, arXiv 2511.20462).

Samples of the flow come out at noise level `noise_std`. The denoiser predicts `noise_std²/0.3 · ∇(-log p)` of noisy
latents, so that one Tweedie step `x - 0.3 · prediction · (s - s') / s` takes them from noise level `s` to `s'`.

Legend: `B` batch, `T` latent frames, `H W` latent rows and columns, `D` latent channels, `M` text tokens, `C` width,
`G` window (frames), `A` look-ahead plus one.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from starflow.flow.loss import NOISE_UNIT
from starflow.flow.rope import check_head_dim, grid_positions, rotations, text_positions
from starflow.flow.transformer import Transformer


class FrameBandAttend:
    """Attention of frame `q` to all text and frames `q + A - 1 - G … q + A - 1`.

    Text attends to all text and frames `0 … A - 1`. The keys of each frame's band are one stretch of the sequence, so
    no mask is made.
    """

    def __init__(self, num_text_tokens: int, num_frames: int, tokens_per_frame: int, lookahead: int, window: int):
        self.num_text_tokens, self.num_frames, self.tokens_per_frame = num_text_tokens, num_frames, tokens_per_frame
        self.lookahead, self.window = lookahead, window

    def _tokens(self, first: int, last: int) -> slice:
        """Where frames `first … last` (clipped to the video) lie in the sequence."""
        first, last = max(first, 0), min(last, self.num_frames - 1)
        return slice(
            self.num_text_tokens + first * self.tokens_per_frame,
            self.num_text_tokens + (last + 1) * self.tokens_per_frame,
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        text = slice(0, self.num_text_tokens)
        outputs = []
        if self.num_text_tokens:
            head = slice(0, self._tokens(0, self.lookahead).stop)
            outputs.append(F.scaled_dot_product_attention(q[:, :, text], k[:, :, head], v[:, :, head]))
        for frame in range(self.num_frames):
            band = self._tokens(frame + self.lookahead - self.window, frame + self.lookahead)
            rows = self._tokens(frame, frame)
            if band.start <= self.num_text_tokens:
                keys, values = k[:, :, : band.stop], v[:, :, : band.stop]
            else:
                keys, values = (torch.cat([t[:, :, text], t[:, :, band]], dim=2) for t in (k, v))
            outputs.append(F.scaled_dot_product_attention(q[:, :, rows], keys, values))
        return torch.cat(outputs, dim=2)


class CausalDenoiser(ModelMixin, ConfigMixin):
    """A light non-autoregressive transformer over `[text, tokens]`, causal over frames but for a look-ahead.

    Each layer looks `temporal_causal - 1` frames ahead, so the whole does `num_layers` times as many.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        width: int,
        num_layers: int = 8,
        head_dim: int = 64,
        text_width: int | None = None,
        position_length: float = 32,
        temporal_causal: int = 2,
        window: int = 10,
    ):
        """
        Args:
            latent_channels: `D`.
            width: of the transformer, a multiple of `head_dim`.
            num_layers: of the transformer.
            head_dim: width of an attention head.
            text_width: width of the text encodings; None for a denoiser that sees no text.
            position_length: `L`, as in `StarFlow`.
            temporal_causal: `A`; a frame's tokens attend up to `A - 1` frames ahead.
            window: `G`; and back to `G` frames before that.

        Raises:
            ValueError: a width that is not a multiple of `head_dim`, or `temporal_causal` below 1.
        """
        super().__init__()
        check_head_dim(head_dim)
        if temporal_causal < 1 or window < temporal_causal - 1:
            raise ValueError("temporal_causal must be at least 1 and the window must reach the frame itself")
        self.proj_in = nn.Linear(latent_channels, width)
        self.proj_text = nn.Linear(text_width, width) if text_width is not None else None
        self.transformer = Transformer(width, num_layers, head_dim)
        self.proj_out = nn.Linear(width, latent_channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
        """Noisy latents `(B, T, D, H, W)`, text encodings `(B, M, text width)` → the prediction `(B, T, D, H, W)`.

        Text is ignored by a denoiser without `text_width`. Raises ValueError if a text-conditioned one gets none.
        """
        num_frames, tokens_per_frame = x.shape[1], x.shape[3] * x.shape[4]
        h, rotation = self.embed(x, 0)
        num_text_tokens = 0
        if self.proj_text is not None:
            text_h, text_rotation = self.embed_text(text)
            num_text_tokens = text_h.shape[1]
            h, rotation = torch.cat([text_h, h], dim=1), torch.cat([text_rotation, rotation])
        attend = FrameBandAttend(num_text_tokens, num_frames, tokens_per_frame, self.lookahead, self.config["window"])
        return self.predict(self.transformer(h, rotation, attend)[:, num_text_tokens:], x)

    @property
    def lookahead(self) -> int:
        """How many frames ahead each layer looks: `A - 1`."""
        return self.config["temporal_causal"] - 1

    def embed(self, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Latents `(B, t, D, H, W)` of frames `first …` → `(B, t·H·W, C)`, and their rotation."""
        num_frames, _, height, width = x.shape[1:]
        h = self.proj_in(x.permute(0, 1, 3, 4, 2).flatten(1, 3).to(self.proj_in.weight.dtype))
        positions = grid_positions(num_frames, height, width, self.config["position_length"]).flatten(0, 2)
        positions[:, 2] += first
        return h, self._rotation(positions, h)

    def embed_text(self, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """`(B, M, text width)` → `(B, M, C)`, and its rotation. Raises ValueError if there is no text."""
        if self.proj_text is None or text is None:
            raise ValueError("this denoiser is conditioned on text, and none was given")
        h = self.proj_text(text.to(self.proj_text.weight.dtype))
        return h, self._rotation(text_positions(text.shape[1], self.config["position_length"]), h)

    def _rotation(self, positions: Tensor, h: Tensor) -> Tensor:
        return rotations(positions, self.config["head_dim"], torch.promote_types(h.dtype, torch.float32), h.device)

    def predict(self, h: Tensor, x: Tensor) -> Tensor:
        """The transformer's output `(B, t·H·W, C)` → the prediction, shaped like `x` `(B, t, D, H, W)`."""
        return self.proj_out(h).unflatten(1, (x.shape[1], *x.shape[3:])).permute(0, 1, 4, 2, 3).to(x.dtype)


def tweedie_step(x: Tensor, prediction: Tensor, noise_std: float, next_noise_std: float = 0.0) -> Tensor:
    """Denoise `x` from noise level `noise_std` to `next_noise_std`: `x - 0.3 · prediction · (s - s') / s`."""
    return x - NOISE_UNIT * prediction * (noise_std - next_noise_std) / noise_std
