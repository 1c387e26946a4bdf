"""Classifier-free guidance of Gaussians, against values computed by hand."""

import math

import pytest
import torch

from invertible_maps import randn
from starflow.flow.guidance import guide, weight_of


def test_scale_zero_gives_the_conditional_gaussian():
    mu_c, sigma_c, mu_u, sigma_u = randn(4, 2, 3).abs()
    mu, sigma = guide(mu_c, sigma_c, mu_u, sigma_u, 0.0)
    assert torch.equal(mu, mu_c)
    assert torch.equal(sigma, sigma_c)


@pytest.mark.parametrize(
    ("mu_c", "sigma_c", "mu_u", "sigma_u", "scale", "mu", "sigma"),
    [
        # sigma_c = sigma_u: s = 1, precision 1, the familiar (1 + w)·mu_c - w·mu_u
        (2.0, 0.5, 1.0, 0.5, 3.0, 5.0, 0.5),
        # s = 1/4, precision 1 + 3 - 3/4 = 3.25; mu = (4·2 - 3/4·1) / 3.25
        (2.0, 0.5, 1.0, 1.0, 3.0, 7.25 / 3.25, 0.5 / math.sqrt(3.25)),
        # sigma_c > sigma_u: the ratio of 4 is clipped to 1
        (2.0, 2.0, 1.0, 0.5, 3.0, 5.0, 2.0),
        # sigma_u infinite: s = 0, the unconditional branch has no effect, and the variance shrinks by 1 + w
        (2.0, 1.0, 1.0, math.inf, 3.0, 2.0, 0.5),
    ],
)
def test_guided_gaussians_equal_values_computed_by_hand(
    mu_c: float, sigma_c: float, mu_u: float, sigma_u: float, scale: float, mu: float, sigma: float
):
    got = guide(*(torch.tensor([value], dtype=torch.float64) for value in (mu_c, sigma_c, mu_u, sigma_u)), scale)
    torch.testing.assert_close(torch.cat(got), torch.tensor([mu, sigma], dtype=torch.float64))


def test_the_guided_gaussian_has_the_guided_score():
    """The score is `(1 + w)·score_c - w·score_u` where `sigma_c <= sigma_u`."""
    mu_c, mu_u, x = randn(3, 5)
    sigma_c = randn(5, seed=1).abs() + 0.1
    sigma_u = sigma_c * 1.5
    mu, sigma = guide(mu_c, sigma_c, mu_u, sigma_u, 2.0)
    want = 3 * (mu_c - x) / sigma_c**2 - 2 * (mu_u - x) / sigma_u**2
    torch.testing.assert_close((mu - x) / sigma**2, want)


def test_guidance_never_widens_the_gaussian_and_stays_finite():
    mu_c, mu_u = randn(2, 1000) * 4
    sigma_c, sigma_u = randn(2, 1000, seed=1).exp()
    for scale in (0.5, 3.5, 100.0):
        mu, sigma = guide(mu_c, sigma_c, mu_u, sigma_u, scale)
        assert (sigma <= sigma_c).all()
        assert (sigma > 0).all()
        assert mu.isfinite().all()


def test_the_scale_of_users_is_that_of_diffusers():
    assert [weight_of(scale) for scale in (0, 0.5, 1, 2, 4.5)] == [0, 0, 0, 1, 3.5]
