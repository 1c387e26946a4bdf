"""The transformer shared by the flow's blocks and by the denoiser: attention, MLP, layer, final norm, key/value cache.

Legend: `B` batch, `n` new tokens, `m` all tokens (the `n` new ones last), `h` heads, `d` head width, `C` width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from starflow.flow.rope import rotate

QUERY_CHUNK = 256
MATRICES = ("attention.qkv", "attention.proj", "mlp.up", "mlp.down")  # of a `Layer`


class KeyValueCache:
    """Keys (already rotated) and values of the first `length` tokens, in buffers allocated once.

    Appending writes in place, and rewinding only changes `length`. Neither copies the contents.
    """

    def __init__(self, num_layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device):
        """`shape` is `(B, capacity, h, d)`."""
        # zeros, because masked entries must be finite
        self.buffer = torch.zeros(num_layers, 2, *shape, dtype=dtype, device=device)
        self.capacity = shape[1]
        self.length = 0

    def rewind(self, length: int) -> None:
        """Forget all tokens after the first `length`. Raises ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}")
        self.length = length

    def extend(self, num_tokens: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Views of each layer: keys and values of the next tokens `(B, h, n, d)`, to fill, and of all `(B, h, m, d)`.

        `length` changes once per pass, in `advance`, because every layer writes at the same place.
        Raises ValueError if the capacity is exceeded.
        """
        end = self.length + num_tokens
        if end > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, not {end}")
        heads_first = self.buffer.transpose(3, 4)
        views = (heads_first[..., self.length : end, :], heads_first[..., :end, :])
        new_keys, new_values, keys, values = (each.unbind() for view in views for each in view.unbind(1))
        return list(zip(new_keys, new_values, keys, values, strict=True))

    def advance(self, num_tokens: int) -> None:
        """Count the tokens that all layers have appended."""
        self.length += num_tokens


class Attend(Protocol):
    """The attention of one layer, `(q, k, v, layer) → (B, h, n, d)`; it may keep keys and values for later calls."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor: ...


def causal_mask(n: int, m: int, like: Tensor) -> Tensor:
    """`(n, m)`: 0 where a query attends to a key, else -inf. The queries are the last `n` of `m` tokens.

    It has the dtype and the device of `like`.
    """
    return like.new_full((n, m), -torch.inf).triu(m - n + 1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of the last `n` of `m` tokens, each to itself and to earlier tokens.

    `q` is `(B, h, n, d)`, `k` and `v` are `(B, h, m, d)`, `n <= m`. No mask of `n·m` entries is made for many queries:
    CUDA has a kernel for a prefix, and without a prefix every kernel has a causal mode; else the queries are split into
    chunks. For few queries, `mask` may be their `causal_mask`.
    """
    n, m = q.shape[2], k.shape[2]
    if n == 1:
        return F.scaled_dot_product_attention(q, k, v)
    if n == m:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(n, m))
    if n <= QUERY_CHUNK:
        mask = causal_mask(n, m, q) if mask is None else mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    chunks = []
    for start in range(0, n, QUERY_CHUNK):
        rows = q[:, :, start : start + QUERY_CHUNK]
        end = m - n + start + rows.shape[2]
        chunks.append(causal_attention(rows, k[:, :, :end], v[:, :, :end]))
    return torch.cat(chunks, dim=2)


class CausalAttend:
    """Causal attention for one pass through all layers, with a `KeyValueCache` if there is one."""

    def __init__(self, cache: KeyValueCache | None = None):
        self.cache = cache
        self.slots: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # of each layer, see `KeyValueCache.extend`
        self.mask: Tensor | None = None  # for few queries with a prefix; the same in all layers

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.cache is not None:
            if not self.slots:
                self._prepare(self.cache, q)
            new_keys, new_values, keys, values = self.slots[layer]
            new_keys.copy_(k)
            new_values.copy_(v)
            k, v = keys.to(q.dtype), values.to(q.dtype)
        return causal_attention(q, k, v, self.mask)

    def _prepare(self, cache: KeyValueCache, q: Tensor) -> None:
        n, m = q.shape[2], cache.length + q.shape[2]
        self.slots = cache.extend(n)
        if 1 < n <= QUERY_CHUNK and n < m and not q.is_cuda:
            self.mask = causal_mask(n, m, q)


class RaggedAttend:
    """Causal attention of windows of several sequences, packed into a single row of `n` tokens.

    Each sequence has a row of the `KeyValueCache`. A token is written to its row, and attends to the row up to itself.
    """

    def __init__(self, cache: KeyValueCache, rows: Tensor, places: Tensor, offsets: Tensor, width: int, like: Tensor):
        """`rows` of the cache, `places` in the row and `offsets` in the window of each token; all are `(n,)`.

        The longest window has `width` tokens and ends where `cache.length` says. `like` has the dtype of the queries.
        """
        num_rows = cache.buffer.shape[2]
        self.cache, self.windows = cache, (num_rows, width)
        self.in_cache, self.in_windows = rows * cache.capacity + places, rows * width + offsets
        places_of_queries = places.new_zeros(num_rows * width).index_copy_(0, self.in_windows, places)
        future = torch.arange(cache.length, device=like.device) > places_of_queries.view(num_rows, 1, width, 1)
        self.mask = like.new_zeros(future.shape).masked_fill_(future, -torch.inf)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Tensors are `(1, h, n, d)`."""
        for places, new in zip(self.cache.buffer[layer].flatten(1, 2), (k, v), strict=True):
            places[self.in_cache] = new[0].transpose(0, 1).to(places.dtype)  # index_copy_ knows no 8-bit numbers
        queries = q.new_zeros(self.windows[0] * self.windows[1], q.shape[1], q.shape[3])
        queries[self.in_windows] = q[0].transpose(0, 1)
        queries = queries.unflatten(0, self.windows).transpose(1, 2)
        keys, values = self.cache.buffer[layer, :, :, : self.cache.length].transpose(2, 3).to(q.dtype)
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask)
        return out.transpose(1, 2).flatten(0, 1)[self.in_windows].transpose(0, 1)[None]


class FinalNorm(nn.Module):
    """RMS norm with a unit offset, in float32: `h · rsqrt(mean(h²) + 1e-6) · (1 + w)`."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor) -> Tensor:
        x = at_least_float32(h)
        return (F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + at_least_float32(self.weight))).to(h.dtype)


class Attention(nn.Module):
    """Pre-norm multi-head attention with rotary positions; softmax scale `d^-0.5`."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        if width % head_dim:
            raise ValueError(f"a width of {width} is not a multiple of the head width {head_dim}")
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def queries_keys_values(self, h: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`q`, `k` (both rotated) and `v`, each `(B, h, n, d)`, of tokens `(B, n, C)`."""
        qkv = self.qkv(self.norm(h)).unflatten(-1, (3, -1, self.head_dim)).transpose(1, 3)
        q, k = rotate(qkv[:, :, :2], rotation).unbind(2)
        return q, k, qkv[:, :, 2]

    def merge(self, attended: Tensor) -> Tensor:
        """Attended values `(B, h, n, d)` → `(B, n, C)`."""
        return self.proj(attended.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Pre-norm two-layer perceptron, exact GELU, expansion 4."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(h))))


class Layer(nn.Module):
    """`h += attention(h); h += mlp(h)`."""

    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.attention = Attention(width, head_dim)
        self.mlp = MLP(width)

    def forward(self, h: Tensor, rotation: Tensor, attend: Attend, layer: int) -> Tensor:
        return self.finish(h, attend(*self.attention.queries_keys_values(h, rotation), layer))

    def finish(self, h: Tensor, attended: Tensor) -> Tensor:
        """The part after attention: tokens `(B, n, C)` and their attended values `(B, h, n, d)` → `(B, n, C)`."""
        h = h + self.attention.merge(attended)
        return h + self.mlp(h)


class Transformer(nn.Module):
    """A stack of layers and the final norm: `(B, n, C)` → `(B, n, C)`."""

    def __init__(self, width: int, num_layers: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.num_heads = width // head_dim  # of this process: tensor parallelism divides the heads among processes
        self.layers = nn.ModuleList(Layer(width, head_dim) for _ in range(num_layers))
        self.final_norm = FinalNorm(width)

    def forward(self, h: Tensor, rotation: Tensor, attend: Attend) -> Tensor:
        """`rotation` `(n, d/2)` is that of the `n` tokens in `h`."""
        for index, layer in enumerate(self.layers):
            h = layer(h, rotation, attend, index)
        return self.final_norm(h)


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32 if it has half precision; otherwise unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
