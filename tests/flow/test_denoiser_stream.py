"""The denoiser applied frame by frame, against the denoiser applied to the whole video."""

import pytest
import torch

from invertible_maps import CHANNELS, TEXT_WIDTH, randn, random_text, tiny_denoiser
from starflow.flow.denoiser_stream import _LayerStream, stream_predictions


@pytest.mark.parametrize("text_width", [None, TEXT_WIDTH])
@pytest.mark.parametrize(("num_layers", "temporal_causal", "window"), [(1, 2, 10), (3, 2, 3), (2, 3, 4), (2, 1, 0)])
@pytest.mark.parametrize("sizes", [[1] * 9, [9], [2, 3, 1, 3], [1]])
def test_streamed_predictions_equal_those_of_the_whole_video(
    num_layers: int, temporal_causal: int, window: int, text_width: int | None, sizes: list[int]
):
    denoiser = tiny_denoiser(num_layers, temporal_causal=temporal_causal, window=window, text_width=text_width)
    text = None if text_width is None else random_text(2)
    x = randn(2, sum(sizes), CHANNELS, 2, 2)
    latents, predictions = zip(*stream_predictions(denoiser, x.split(sizes, dim=1), text), strict=True)
    torch.testing.assert_close(torch.cat(latents, dim=1), x, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat(predictions, dim=1), denoiser(x, text), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("num_layers", "temporal_causal", "window"), [(1, 2, 10), (3, 2, 3), (2, 3, 4), (2, 1, 0)])
@pytest.mark.parametrize("sizes", [[1] * 9, [2, 3, 1, 3]])
def test_without_look_ahead_each_piece_is_predicted_as_the_last_of_the_video(
    num_layers: int, temporal_causal: int, window: int, sizes: list[int]
):
    denoiser = tiny_denoiser(num_layers, temporal_causal=temporal_causal, window=window, text_width=TEXT_WIDTH)
    text, x = random_text(2), randn(2, sum(sizes), CHANNELS, 2, 2)
    stop = 0
    for latents, prediction in stream_predictions(denoiser, x.split(sizes, dim=1), text, look_ahead=False):
        start, stop = stop, stop + latents.shape[1]
        torch.testing.assert_close(latents, x[:, start:stop], rtol=0, atol=0)
        torch.testing.assert_close(prediction, denoiser(x[:, :stop], text)[:, start:], rtol=0, atol=1e-10)
    assert stop == 9


def test_a_frame_is_emitted_as_soon_as_its_look_ahead_has_arrived():
    denoiser = tiny_denoiser(3, temporal_causal=2, window=4, text_width=None)
    arrived = 0

    def frames():
        nonlocal arrived
        for frame in randn(1, 9, CHANNELS, 2, 2).split(1, dim=1):
            arrived += 1
            yield frame

    emitted = 0
    for latents, _ in stream_predictions(denoiser, frames()):
        emitted += latents.shape[1]
        assert emitted == (9 if arrived == 9 and latents.shape[1] > 1 else arrived - 3)
    assert emitted == 9


def test_memory_does_not_grow_with_the_length_of_the_video(monkeypatch: pytest.MonkeyPatch):
    held, forget = [], _LayerStream._forget

    def record(layer: _LayerStream, *arguments: int) -> None:
        forget(layer, *arguments)
        held.append([tensor.shape[min(2, tensor.ndim - 2)] for tensor in layer.pending[2:]])

    monkeypatch.setattr(_LayerStream, "_forget", record)
    denoiser = tiny_denoiser(2, temporal_causal=2, window=3, text_width=None)
    for _ in stream_predictions(denoiser, randn(1, 40, CHANNELS, 2, 2).split(1, dim=1)):
        pass
    waiting, keys, _ = zip(*held, strict=True)
    assert max(waiting) == 4  # one frame
    assert max(keys) == 4 * 3
