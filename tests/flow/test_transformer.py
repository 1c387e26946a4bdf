"""Attention without dense masks, and the key-value cache."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from invertible_maps import HEAD_DIM, randn, randomize
from starflow.flow.rope import grid_positions, rotations
from starflow.flow.transformer import (
    QUERY_CHUNK,
    Attention,
    CausalAttend,
    FinalNorm,
    KeyValueCache,
    Transformer,
    causal_attention,
)


def dense_causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same result from all `n × m` scores and a dense mask."""
    n, m = q.shape[2], k.shape[2]
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    future = torch.arange(m) > torch.arange(m - n, m)[:, None]
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize(
    ("n", "m"),
    [
        (1, 1),
        (7, 7),
        (1, 9),
        (4, 9),
        (8, 9),
        (QUERY_CHUNK, QUERY_CHUNK + 3),
        (2 * QUERY_CHUNK + 1, 2 * QUERY_CHUNK + 6),
    ],
)
def test_causal_attention_equals_a_dense_mask(n: int, m: int):
    q, k, v = randn(2, 2, n, 4, seed=1), randn(2, 2, m, 4, seed=2), randn(2, 2, m, 4, seed=3)
    torch.testing.assert_close(causal_attention(q, k, v), dense_causal_attention(q, k, v), atol=1e-12, rtol=0)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_attention_with_a_prefix_makes_no_dense_mask():
    n, m = 1024, 4096
    q, k, v = (torch.randn(1, 1, size, 8) for size in (n, m, m))
    with LargestTensor() as largest:
        causal_attention(q, k, v)
    assert QUERY_CHUNK * (m - n) < largest.numel <= QUERY_CHUNK * m < n * m / 2
    with LargestTensor() as largest:
        causal_attention(k, k, v)
    assert largest.numel < 10 * k.numel()


def cache_of(capacity: int = 8, num_layers: int = 2) -> KeyValueCache:
    return KeyValueCache(num_layers, (1, capacity, 2, 4), torch.float64, torch.device("cpu"))


def append_to_all_layers(cache: KeyValueCache, num_tokens: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    views = []
    for layer, (new_keys, new_values, keys, values) in enumerate(cache.extend(num_tokens)):
        new = randn(2, 1, 2, num_tokens, 4, seed=seed + layer)
        new_keys.copy_(new[0])
        new_values.copy_(new[1])
        views.append((keys, values))
    cache.advance(num_tokens)
    return views


def test_append_and_rewind_copy_nothing():
    cache = cache_of()
    storage = cache.buffer.untyped_storage().data_ptr()
    first = append_to_all_layers(cache, 3, seed=1)
    kept = [keys.clone() for keys, _ in first]
    second = append_to_all_layers(cache, 2, seed=5)
    for layer, ((keys, values), old) in enumerate(zip(second, kept, strict=True)):
        assert keys.shape == values.shape == (1, 2, 5, 4)
        assert keys.untyped_storage().data_ptr() == values.untyped_storage().data_ptr() == storage
        assert keys.data_ptr() == first[layer][0].data_ptr()
        assert torch.equal(keys[:, :, :3], old)
    cache.rewind(3)
    assert cache.length == 3
    third = append_to_all_layers(cache, 1, seed=9)
    for (keys, values), old, layer in zip(third, kept, range(2), strict=True):
        assert torch.equal(keys[:, :, :3], old)
        new = randn(2, 1, 2, 1, 4, seed=9 + layer)
        assert torch.equal(keys[:, :, 3:], new[0])
        assert torch.equal(values[:, :, 3:], new[1])


def test_appending_beyond_the_capacity_of_a_cache_is_refused():
    cache = cache_of(capacity=4)
    append_to_all_layers(cache, 3, seed=1)
    before = cache.buffer[:, :, :, :3].clone()
    with pytest.raises(ValueError, match="has room for 4 tokens, not 5"):
        append_to_all_layers(cache, 2, seed=2)
    assert cache.length == 3
    assert torch.equal(cache.buffer[:, :, :, :3], before)
    append_to_all_layers(cache, 1, seed=2)


@pytest.mark.parametrize("length", [-1, 4])
def test_rewinding_a_cache_to_an_invalid_length_is_refused(length: int):
    cache = cache_of()
    append_to_all_layers(cache, 3, seed=1)
    with pytest.raises(ValueError, match=f"cannot rewind a cache of 3 tokens to {length}"):
        cache.rewind(length)
    assert cache.length == 3


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 4, 2], [11, 1]])
def test_cached_pieces_equal_the_whole_pass(pieces: list[int]):
    transformer = randomize(Transformer(2 * HEAD_DIM, 2, HEAD_DIM))
    h = randn(2, 12, 2 * HEAD_DIM)
    rotation = rotations(grid_positions(2, 2, 3, 4).flatten(0, 2), HEAD_DIM, torch.float64, torch.device("cpu"))
    whole = transformer(h, rotation, CausalAttend())
    cache = KeyValueCache(2, (2, 12, 2, HEAD_DIM), torch.float64, torch.device("cpu"))
    outputs = []
    for size in pieces:
        now = slice(cache.length, cache.length + size)
        outputs.append(transformer(h[:, now], rotation[now], CausalAttend(cache)))
        cache.advance(size)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-12, rtol=0)


def test_cached_keys_are_already_rotated():
    """Cached keys are therefore never changed."""
    attention = randomize(Attention(HEAD_DIM, HEAD_DIM))
    h = randn(1, 3, HEAD_DIM)
    rotation = rotations(grid_positions(1, 1, 3, 4).flatten(0, 2), HEAD_DIM, torch.float64, torch.device("cpu"))
    cache = KeyValueCache(1, (1, 3, 1, HEAD_DIM), torch.float64, torch.device("cpu"))
    CausalAttend(cache)(*attention.queries_keys_values(h, rotation), 0)
    _, keys, values = attention.qkv(attention.norm(h)).chunk(3, dim=-1)
    cos, sin = rotation.real, rotation.imag
    a, b = keys[0, :, 0::2], keys[0, :, 1::2]
    torch.testing.assert_close(cache.buffer[0, 0, 0, :, 0, 0::2], a * cos - b * sin)
    torch.testing.assert_close(cache.buffer[0, 0, 0, :, 0, 1::2], b * cos + a * sin)
    torch.testing.assert_close(cache.buffer[0, 1, 0, :, 0], values[0])


def test_final_norm_is_an_rms_norm_with_a_unit_offset_in_float32():
    h, weight = randn(2, 3, 8) * 3, randn(8, seed=1)
    norm = FinalNorm(8)
    norm.weight.data = weight
    want = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6) * (1 + weight)
    torch.testing.assert_close(norm(h), want, atol=1e-12, rtol=0)
    half = norm.bfloat16()(h.bfloat16())
    assert half.dtype == torch.bfloat16
    exact = F.rms_norm(h.bfloat16().float(), (8,), eps=1e-6) * (1 + weight.bfloat16().float())
    assert torch.equal(half, exact.bfloat16())


def test_a_width_must_be_a_multiple_of_the_head_width():
    with pytest.raises(ValueError, match="not a multiple"):
        Attention(HEAD_DIM + 4, HEAD_DIM)
