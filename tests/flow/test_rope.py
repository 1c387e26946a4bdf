"""Rotary position embeddings, against the formulas written out."""

import math

import pytest
import torch

from invertible_maps import randn
from starflow.flow.rope import check_head_dim, grid_positions, rotate, rotations, text_positions

CPU = torch.device("cpu")


def angles_of(row: float, column: float, time: float, head_dim: int) -> list[float]:
    s = head_dim // 2 - 8
    spatial = [10000 ** (-2 * i / s) for i in range(s // 2)]
    temporal = [10000 ** (-i / 8) for i in range(8)]
    return [row * f for f in spatial] + [column * f for f in spatial] + [time * g for g in temporal]


@pytest.mark.parametrize("head_dim", [20, 32, 40, 64])
def test_rotations_have_the_angles_of_the_formula(head_dim: int):
    positions = torch.tensor([[0.0, 0, 0], [1.5, 2, 3], [31, 7, 20]])
    got = rotations(positions, head_dim, torch.float64, CPU)
    for (cos, sin), position in zip(zip(got.real, got.imag, strict=True), positions.tolist(), strict=True):
        angles = angles_of(*position, head_dim)
        torch.testing.assert_close(cos, torch.tensor([math.cos(angle) for angle in angles], dtype=torch.float64))
        torch.testing.assert_close(sin, torch.tensor([math.sin(angle) for angle in angles], dtype=torch.float64))


def test_grid_positions_are_in_raster_order_and_normalised_to_the_training_length():
    positions = grid_positions(2, 3, 12, length=32)
    scale = 32 / 6
    assert positions.shape == (2, 3, 12, 3)
    torch.testing.assert_close(positions[1, 2, 5], torch.tensor([2 * scale, 5 * scale, 1], dtype=torch.float64))
    assert torch.equal(grid_positions(1, 32, 32, 32)[0, 31, 17], torch.tensor([31, 17, 0], dtype=torch.float64))


def test_text_positions_are_spread_over_time():
    want = torch.tensor([[0, 0, 0], [0, 0, 8], [0, 0, 16], [0, 0, 24]], dtype=torch.float64)
    assert torch.equal(text_positions(4, 32), want)
    assert text_positions(0, 32).shape == (0, 3)


def test_rotation_acts_on_interleaved_pairs_and_scores_depend_on_relative_positions():
    positions = torch.tensor([[1.0, 2, 3], [4, 4, 4], [11, 12, 13], [14, 14, 14]])
    rotation = rotations(positions, 20, torch.float64, CPU)
    q, k = (randn(1, 1, 1, 20, seed=seed).expand(1, 1, 4, 20) for seed in (1, 2))
    cos, sin = rotation.real, rotation.imag
    rotated = rotate(q, rotation)
    assert rotated[0, 0, 1, 4] == q[0, 0, 1, 4] * cos[1, 2] - q[0, 0, 1, 5] * sin[1, 2]
    assert rotated[0, 0, 1, 5] == q[0, 0, 1, 5] * cos[1, 2] + q[0, 0, 1, 4] * sin[1, 2]
    scores = rotated @ rotate(k, rotation).transpose(-1, -2)
    torch.testing.assert_close(scores[0, 0, 0, 1], scores[0, 0, 2, 3])
    assert (scores[0, 0, 0, 1] - scores[0, 0, 1, 3]).abs() > 1e-3


def test_angles_are_computed_in_float64_and_rounded_last():
    """The angles are hundreds of radians, which float32 and bfloat16 represent too coarsely."""
    position = torch.tensor([[500.25, 0, 0]], dtype=torch.float64)
    exact, rounded = (rotations(position, 64, dtype, CPU) for dtype in (torch.float64, torch.float32))
    assert rounded.dtype == torch.complex64
    torch.testing.assert_close(rounded.to(exact.dtype), exact, atol=6e-8, rtol=0)


@pytest.mark.parametrize("head_dim", [16, 18, 22, 21, 0])
def test_head_widths_that_cannot_be_split_are_refused(head_dim: int):
    with pytest.raises(ValueError, match="head_dim must be a multiple of 4 above 16"):
        check_head_dim(head_dim)
