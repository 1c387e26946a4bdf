"""The losses agree with each other and with the density that they are made from."""

from math import log, pi

import pytest
import torch

from invertible_maps import CHANNELS, randn, random_text, tiny_flow
from starflow.flow.loss import (
    NOISE_UNIT,
    add_noise,
    flow_loss,
    negative_log_likelihood,
    score_prediction,
    training_loss,
    training_score,
)
from starflow.flow.model import Encoded

NOISE_STD = 0.5


def test_the_likelihood_is_that_of_a_normal_distribution_and_the_loss_leaves_its_constant_out():
    z, log_det = randn(2, 2, 3, CHANNELS, 2, 2)
    density = torch.distributions.Normal(0, 1).log_prob(z) + log_det
    encoded = Encoded(z, log_det)
    torch.testing.assert_close(negative_log_likelihood(encoded), -density)
    assert flow_loss(encoded).item() == pytest.approx(-density.mean().item() - 0.5 * log(2 * pi))


def test_the_training_loss_is_of_the_frames_that_are_made_in_units_of_the_noise():
    encoded = Encoded(*randn(2, 2, 3, CHANNELS, 2, 2))
    made = Encoded(encoded.z[:, 1:], encoded.log_det[:, 1:])
    ratio = NOISE_STD / NOISE_UNIT
    torch.testing.assert_close(training_loss(encoded, NOISE_STD), ratio * flow_loss(encoded))
    torch.testing.assert_close(training_loss(encoded, NOISE_STD, num_given=1), ratio * flow_loss(made))


def test_the_denoisers_target_is_the_gradient_of_the_negative_log_likelihood():
    """`noise_std²/0.3 · ∇(-log p)` per element, whatever the number of elements that a loss was a mean over."""
    flow, text = tiny_flow(), random_text(2)
    x = randn(2, 3, CHANNELS, 2, 3).requires_grad_()

    def gradient(loss):
        return torch.autograd.grad(loss(flow(x, text)), x)[0]

    def of_made(encoded):
        return negative_log_likelihood(encoded)[:, 1:].sum()

    expected = NOISE_STD**2 / 0.3 * gradient(lambda encoded: negative_log_likelihood(encoded).sum())
    torch.testing.assert_close(score_prediction(gradient(flow_loss), NOISE_STD), expected)
    of_training = gradient(lambda encoded: training_loss(encoded, NOISE_STD, num_given=1))
    torch.testing.assert_close(
        training_score(of_training, NOISE_STD, x[:, 1:].numel()), NOISE_STD**2 / 0.3 * gradient(of_made)
    )


def test_noise_follows_from_the_generator_and_has_the_latents_dtype():
    clean = randn(2, 3, CHANNELS, 4, 4)
    noisy = add_noise(clean, NOISE_STD, torch.Generator().manual_seed(1))
    assert noisy.dtype == clean.dtype
    assert torch.equal(noisy, add_noise(clean, NOISE_STD, torch.Generator().manual_seed(1)))
    assert (noisy - clean).std().item() == pytest.approx(NOISE_STD, rel=0.15)
    of_each = add_noise(clean, NOISE_STD, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    alone = add_noise(clean[1:], NOISE_STD, torch.Generator().manual_seed(2))
    torch.testing.assert_close(of_each[1:], alone)
