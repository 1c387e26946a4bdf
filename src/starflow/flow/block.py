"""An autoregressive affine block: the parallel map data → noise, and the Gaussians that solvers need to invert it.

For tokens `v_1 … v_N` (in the block's own order), a causal transformer predicts the mean and the standard deviation of
each token from the tokens before it:

    z_t = (v_t - mu_t(v_<t)) / sigma_t(v_<t),    log_det_t = -log sigma_t        (data → noise, one parallel pass)
    v_t = mu_t(v_<t) + sigma_t(v_<t) · z_t                                       (noise → data, see `starflow.sampling`)

(TarFlow, arXiv 2412.06329; STARFlow, arXiv 2506.06276.)

Legend: `B` batch, `T` latent frames, `N` tokens, `D` channels of a token, `M` text tokens, `E` action features, `C`
width, `d` head width.
"""

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starflow.flow.guidance import guide
from starflow.flow.transformer import CausalAttend, KeyValueCache, RaggedAttend, Transformer, at_least_float32

# softplus(x + SOFTPLUS_SHIFT) is 1 at x = 0
SOFTPLUS_SHIFT = 0.541324854612918


class AffineBlock(nn.Module):
    """A causal transformer over `[text, sos, v_1 … v_{N-1}]` that predicts the Gaussian of each token `v_t`."""

    def __init__(
        self,
        channels: int,
        width: int,
        num_layers: int,
        head_dim: int,
        text_width: int | None = None,
        soft_clip: float = 0.0,
        action_features: int | None = None,
    ):
        """`text_width` is the width of the text encodings; None for a block without text. `action_features` is `E`."""
        super().__init__()
        self.soft_clip = soft_clip
        self.sos = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.proj_in = nn.Linear(channels, width)
        self.proj_text = nn.Linear(text_width, width) if text_width is not None else None
        self.transformer = Transformer(width, num_layers, head_dim)
        self.proj_action = None if action_features is None else action_embedding(action_features, width)
        self.proj_out = nn.Linear(width, 2 * channels)
        # An untrained block is the identity.
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def gaussians(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, n, C)` transformer output → `mu, sigma`, each `(B, n, D)`, float32 or wider."""
        out = at_least_float32(self.proj_out(h))
        if self.soft_clip > 0:
            out = self.soft_clip * torch.tanh(out / self.soft_clip)
        a, mu = out.chunk(2, dim=-1)
        return mu, F.softplus(a + SOFTPLUS_SHIFT)

    def embed(self, previous: Tensor) -> Tensor:
        """The tokens `(B, n, D)` before the tokens to predict → `(B, n, C)`."""
        return self.proj_in(previous.to(self.proj_in.weight.dtype))

    def embed_text(self, text: Tensor) -> Tensor:
        """`(B, M, text width)` → `(B, M, C)`. Raises ValueError if the block takes no text."""
        if self.proj_text is None:
            raise ValueError("this block takes no text")
        return self.proj_text(text.to(self.proj_text.weight.dtype))

    def embed_actions(self, actions: Tensor) -> Tensor:
        """`(B, T, E)` → `(B, T, C)`. Raises ValueError if the block takes no actions."""
        if self.proj_action is None:
            raise ValueError("this block takes no actions")
        return self.proj_action(actions.to(self.proj_action.weight.dtype))

    def predict(
        self, v: Tensor, rotation: Tensor, text: Tensor | None = None, actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `(B, N, D)` of every token of `v` `(B, N, D)`, in one parallel pass.

        `rotation` is `(M + N, d/2)`, text first. The input at the place of a token is the token before it, and the
        action of the frame `(B, T, E)` that the token itself is in.
        """
        batch = v.shape[0]
        h = self.embed(torch.cat([self.sos.expand(batch, -1, -1).to(v.dtype), v[:, :-1]], dim=1))
        if actions is not None:
            h = h + self.embed_actions(actions).repeat_interleave(v.shape[1] // actions.shape[1], dim=1)
        if text is not None:
            h = torch.cat([self.embed_text(text), h], dim=1)
        h = self.transformer(h, rotation, CausalAttend())
        return self.gaussians(h[:, -v.shape[1] :])

    def forward(
        self, v: Tensor, rotation: Tensor, text: Tensor | None = None, actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Data → noise: `z` and `log_det = -log sigma`, both `(B, N, D)`, elementwise, float32 or wider."""
        mu, sigma = self.predict(v, rotation, text, actions)
        return (at_least_float32(v) - mu) / sigma, -sigma.log()


def action_embedding(action_features: int, width: int) -> nn.Linear:
    """A new embedding, which changes nothing until it is trained."""
    embedding = nn.Linear(action_features, width, bias=False)
    nn.init.zeros_(embedding.weight)
    return embedding


class ConditionalGaussians:
    """The Gaussians of consecutive tokens, given all tokens before them, with a key/value cache of settled tokens.

    This is the interface between a block and a solver. `evaluate` is for the same tokens of all samples;
    `evaluate_windows` is for different tokens of each sample. With guidance, the conditional and the unconditional
    branch run as one batch of `2B` on the same tokens, and the result is the guided Gaussian.
    """

    def __init__(
        self,
        block: AffineBlock,
        batch_size: int,
        rotation: Tensor,
        text: Tensor | None = None,
        null_text: Tensor | None = None,
        guidance_weight: float = 0.0,
        cache_dtype: torch.dtype | None = None,
    ):
        """Start with a cache that holds only the text.

        `rotation` `(M + N, d/2)` fixes the number of tokens; `text` and `null_text` are `(B, M, text width)`.
        Raises ValueError for guidance without `null_text`.
        """
        if guidance_weight and (text is None or null_text is None):
            raise ValueError("guidance needs the encodings of the captions and of the empty caption")
        self.block = block
        self.rotation = rotation
        self.guidance_weight = guidance_weight
        self.num_text_tokens = 0 if text is None else text.shape[1]
        self.num_tokens = rotation.shape[0] - self.num_text_tokens
        self.branches = 2 if guidance_weight else 1
        layers, weight = block.transformer.layers, block.proj_in.weight
        shape = (
            self.branches * batch_size,
            rotation.shape[0],
            block.transformer.num_heads,
            block.transformer.head_dim,
        )
        self.cache = KeyValueCache(len(layers), shape, cache_dtype or weight.dtype, weight.device)
        self.action_inputs: Tensor | None = None  # (branches·B, N, C)
        if text is not None:
            both = torch.cat([text, null_text]) if guidance_weight and null_text is not None else text
            self._run(block.embed_text(both))

    def forget(self, first: int = 0) -> None:
        """Drop token `first` and the tokens after it from the cache."""
        self.cache.rewind(min(self.cache.length, self.num_text_tokens + first))

    def set_actions(self, actions: Tensor, frame_tokens: int) -> None:
        """Set the actions `(B, T, E)` of the first `T` frames. Tokens in the cache keep theirs.

        The unconditional branch has no actions.
        """
        embedded = self.block.embed_actions(actions).repeat_interleave(frame_tokens, dim=1)
        without = torch.zeros_like(embedded)
        self.action_inputs = torch.cat([embedded, *[without] * (self.branches - 1)])

    def copy(self) -> "ConditionalGaussians":
        """The same Gaussians with a cache of their own."""
        other = copy(self)
        other.cache = copy(self.cache)
        other.cache.buffer = self.cache.buffer.clone()
        return other

    def _run(self, h: Tensor) -> Tensor:
        """The transformer's output for the tokens after those in the cache. Adds these tokens to the cache."""
        start = self.cache.length
        h = self.block.transformer(h, self.rotation[start : start + h.shape[1]], CausalAttend(self.cache))
        self.cache.advance(h.shape[1])
        return h

    @torch.inference_mode()  # its operations take less time than without gradients only
    def evaluate(self, v: Tensor, start: int, stop: int, guidance_weight: float | None = None) -> tuple[Tensor, Tensor]:
        """`mu, sigma` `(B, stop - start, D)` of tokens `start … stop - 1` of `v` `(B, N, D)`, given the tokens before.

        The cache is first rewound to `start`. Tokens before `start` must not have changed since they were evaluated.
        Tokens before `start` that are not in the cache are evaluated in the same pass. Afterwards the cache holds all
        tokens before `stop`. `guidance_weight` replaces that of sampling; 0 gives the Gaussians of the model.
        """
        first = min(start, self.cache.length - self.num_text_tokens)
        self.cache.rewind(self.num_text_tokens + first)
        if first == 0:
            sos = self.block.sos.expand(v.shape[0], -1, -1).to(v.dtype)
            previous = torch.cat([sos, v[:, : stop - 1]], dim=1)
        else:
            previous = v[:, first - 1 : stop - 1]
        h = self.block.embed(previous).repeat(self.branches, 1, 1)
        if self.action_inputs is not None:
            h = h + self.action_inputs[:, first:stop]
        h = self._run(h)
        return self._guided(h[:, start - first :], self.guidance_weight if guidance_weight is None else guidance_weight)

    @torch.inference_mode()
    def evaluate_windows(self, v: Tensor, windows: Sequence[range]) -> tuple[Tensor, Tensor]:
        """`mu, sigma` `(n, D)` of the `n` tokens of all windows, in order. Each sample of `v` `(B, N, D)` has a window.

        The tokens before a window must have been evaluated, and must not have changed since.
        A window may be empty.
        """
        if all(window == windows[0] for window in windows):
            mu, sigma = self.evaluate(v, windows[0].start, windows[0].stop)
            return mu.flatten(0, 1), sigma.flatten(0, 1)
        rows, tokens, offsets = packed(windows, v.device)
        previous = v[rows, (tokens - 1).clamp(min=0)]
        previous = torch.where((tokens == 0)[:, None], self.block.sos[0].to(v.dtype), previous)
        h = self.block.embed(previous[None]).repeat(1, self.branches, 1)
        rows_of_branches = torch.cat([rows + branch * len(v) for branch in range(self.branches)])
        if self.action_inputs is not None:
            h = h + self.action_inputs[rows_of_branches, tokens.repeat(self.branches)]
        places = (self.num_text_tokens + tokens).repeat(self.branches)
        self.cache.length = self.num_text_tokens + max(window.stop for window in windows)
        width = max(len(window) for window in windows)
        attend = RaggedAttend(self.cache, rows_of_branches, places, offsets.repeat(self.branches), width, h)
        h = self.block.transformer(h, self.rotation[places], attend)
        mu, sigma = self._guided(h.unflatten(1, (self.branches, len(tokens)))[0], self.guidance_weight)
        return mu[0], sigma[0]

    def _guided(self, h: Tensor, guidance_weight: float) -> tuple[Tensor, Tensor]:
        """The transformer's output of all branches → `mu, sigma` of the samples."""
        mu, sigma = self.block.gaussians(h)
        return guide(*_split(mu, sigma), guidance_weight) if self.branches == 2 else (mu, sigma)


def packed(windows: Sequence[range], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The sample, the index and the offset in the window of the `n` tokens of all windows, in order; each `(n,)`."""
    lengths = [len(window) for window in windows]
    rows = torch.arange(len(windows)).repeat_interleave(torch.tensor(lengths))
    tokens = torch.cat([torch.arange(window.start, window.stop) for window in windows])
    offsets = torch.cat([torch.arange(length) for length in lengths])
    return rows.to(device), tokens.to(device), offsets.to(device)


def _split(mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Conditional and unconditional halves of a batch of both: `mu_c, sigma_c, mu_u, sigma_u`."""
    (mu_c, mu_u), (sigma_c, sigma_u) = mu.chunk(2), sigma.chunk(2)
    return mu_c, sigma_c, mu_u, sigma_u
