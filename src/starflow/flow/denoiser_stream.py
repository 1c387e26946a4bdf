"""`CausalDenoiser` frame by frame: each layer emits a frame as soon as the frames of its look-ahead exist.

Every layer keeps the keys and values of its attention window, and the frames that wait for their look-ahead. Nothing is
computed twice, and memory does not grow with the video. With `L` layers and a look-ahead of `A - 1` frames in each, the
prediction of a frame is ready when the frame `L·(A - 1)` later exists.

Legend: as in `starflow.flow.denoiser`; `h` heads, `d` head width.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from starflow.flow.denoiser import CausalDenoiser
from starflow.flow.transformer import Layer


@torch.no_grad()
def stream_predictions(
    denoiser: CausalDenoiser, pieces: Iterable[Tensor], text: Tensor | None = None, *, look_ahead: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The predictions of the denoiser for a video in pieces, equal to those for the whole video.

    Args:
        denoiser: the model.
        pieces: `(B, t, D, H, W)`, successive frames of the same videos, one or more at a time.
        text: `(B, M, text width)`; a denoiser without text ignores it.
        look_ahead: False to predict each piece at once, as if the video ended with it.

    Yields:
        Latents and predictions `(B, t, D, H, W)` of the frames that are ready, each frame once and in order.
    """
    stream: DenoiserStream | None = None
    for piece in pieces:
        stream = stream or DenoiserStream(denoiser, piece, text)
        if look_ahead:
            yield from stream(piece, is_last=False)
        else:
            yield piece, stream.without_look_ahead(piece)
    if stream is not None and look_ahead:
        yield from stream(piece[:, :0], is_last=True)


class DenoiserStream:
    """The denoiser of one video that comes in pieces."""

    def __init__(self, denoiser: CausalDenoiser, like: Tensor, text: Tensor | None) -> None:
        """`like` are latents of the shape `(B, t, D, H, W)` of the pieces, `text` is `(B, M, text width)`."""
        self.denoiser = denoiser
        self.num_seen = 0
        self.waiting = like[:, :0]  # latents whose prediction is not ready
        self.text = None if denoiser.proj_text is None else denoiser.embed_text(text)
        num_text_tokens = 0 if self.text is None else self.text[0].shape[1]
        self.tokens_per_frame = like.shape[3] * like.shape[4]
        self.layers = [
            _LayerStream(
                cast(Layer, layer),
                num_text_tokens,
                self.tokens_per_frame,
                denoiser.lookahead,
                denoiser.config["window"],
            )
            for layer in denoiser.transformer.layers
        ]

    def copy(self) -> "DenoiserStream":
        """A stream of the same video, which can go on in another way. The tensors are shared: none is changed."""
        other = copy(self)
        other.layers = [copy(layer) for layer in self.layers]
        return other

    def __call__(self, piece: Tensor, *, is_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Latents and predictions `(B, t, D, H, W)` of the frames that are ready, none if there are no such frames."""
        h, rotation = self.denoiser.embed(piece, self.num_seen)
        if self.text is not None:  # before the first piece
            h, rotation = torch.cat([self.text[0], h], dim=1), torch.cat([self.text[1], rotation])
            self.text = None
        self.num_seen += piece.shape[1]
        self.waiting = torch.cat([self.waiting, piece], dim=1)
        emitted = self.layers[-1].num_emitted
        for layer in self.layers:
            h, rotation = layer(h, rotation, is_last=is_last)
        num_ready = self.layers[-1].num_emitted - emitted
        ready, self.waiting = self.waiting[:, :num_ready], self.waiting[:, num_ready:]
        if num_ready:
            h = self.denoiser.transformer.final_norm(h[:, -num_ready * self.tokens_per_frame :])
            yield ready, self.denoiser.predict(h, ready)

    def without_look_ahead(self, piece: Tensor) -> Tensor:
        """The prediction `(B, t, D, H, W)` for the next piece, as if the video ended with it. The stream can go on."""
        predictions = [prediction for _, prediction in self(piece, is_last=False)]
        predictions += [prediction for _, prediction in self.copy()(piece[:, :0], is_last=True)]
        return torch.cat(predictions, dim=1)[:, -piece.shape[1] :]


class _LayerStream:
    """One layer: receives the tokens of text and frames in order, and emits those whose look-ahead is complete.

    `h`, `rotation` and `q` belong to the waiting tokens. `k` and `v` belong to all text, and to the frames from
    `first_key_frame` on, to which waiting or later frames may attend.
    """

    def __init__(self, layer: Layer, num_text_tokens: int, tokens_per_frame: int, lookahead: int, window: int) -> None:
        self.layer = layer
        self.num_text_tokens, self.tokens_per_frame = num_text_tokens, tokens_per_frame
        self.lookahead, self.window = lookahead, window
        self.num_emitted = 0  # frames
        self.first_key_frame = 0
        self.pending: list[Tensor] = []  # h, rotation, q, k, v

    def __call__(self, h: Tensor, rotation: Tensor, *, is_last: bool) -> tuple[Tensor, Tensor]:
        """`h` `(B, n, C)` and `rotation` `(n, d/2)` of the next tokens → those of the tokens that are ready."""
        self._append(h, rotation)
        h, rotation, q, k, _ = self.pending
        num_text = self.num_text_tokens
        num_seen = self.first_key_frame + (k.shape[2] - num_text) // self.tokens_per_frame
        stop = num_seen if is_last else max(0, num_seen - self.lookahead)
        attended = []
        if self.num_emitted == 0 and stop > 0 and num_text:
            attended.append(self._attend(q[:, :, :num_text], 0, self.lookahead))
        for frame in range(self.num_emitted, stop):
            first = num_text * (self.num_emitted == 0) + (frame - self.num_emitted) * self.tokens_per_frame
            last = frame + self.lookahead
            attended.append(self._attend(q[:, :, first : first + self.tokens_per_frame], last - self.window, last))
        if not attended:
            return h[:, :0], rotation[:0]
        out = self.layer.finish(h[:, : (n := sum(part.shape[2] for part in attended))], torch.cat(attended, dim=2))
        self._forget(n, stop)
        return out, rotation[:n]

    def _append(self, h: Tensor, rotation: Tensor) -> None:
        new = [h, rotation, *self.layer.attention.queries_keys_values(h, rotation)]
        along = (1, 0, 2, 2, 2)
        if self.pending:
            new = [torch.cat(pair, dim) for pair, dim in zip(zip(self.pending, new, strict=True), along, strict=True)]
        self.pending = new

    def _attend(self, q: Tensor, first: int, last: int) -> Tensor:
        """Attention to all text and to the existing frames of `first … last`."""
        k, v = self.pending[3:]
        start = self.num_text_tokens + max(0, first - self.first_key_frame) * self.tokens_per_frame
        stop = self.num_text_tokens + (last + 1 - self.first_key_frame) * self.tokens_per_frame
        keys, values = (torch.cat([t[:, :, : self.num_text_tokens], t[:, :, start:stop]], dim=2) for t in (k, v))
        return F.scaled_dot_product_attention(q, keys, values)

    def _forget(self, num_tokens: int, num_emitted: int) -> None:
        """Drop the first `num_tokens` waiting tokens, and the keys to which no later frame attends."""
        h, rotation, q, k, v = self.pending
        self.num_emitted = num_emitted
        first = max(self.first_key_frame, num_emitted + self.lookahead - self.window)
        skip = (first - self.first_key_frame) * self.tokens_per_frame
        text = slice(0, self.num_text_tokens)
        k, v = (torch.cat([t[:, :, text], t[:, :, self.num_text_tokens + skip :]], dim=2) for t in (k, v))
        self.first_key_frame = first
        self.pending = [h[:, num_tokens:], rotation[num_tokens:], q[:, :, num_tokens:], k, v]
