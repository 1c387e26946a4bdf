import torch

from starflow.encoders.video import VideoCodec, wan_moments
from starflow.train.principal_axes import normalise_latents
from tiny_pipeline import tiny_vae


def test_reconstructions_stay_and_channels_become_uncorrelated_and_of_unit_scale():
    vae = tiny_vae()
    video = torch.rand(6, 5, 3, 32, 32) * 2 - 1
    before = VideoCodec(vae).decode(VideoCodec(vae).encode(video))
    means = wan_moments(vae, video.transpose(1, 2)).chunk(2, dim=1)[0].detach().double()
    normalise_latents(vae, means)
    latents = VideoCodec(vae).encode(video)
    torch.testing.assert_close(VideoCodec(vae).decode(latents), before, atol=1e-5, rtol=0)
    covariance = torch.cov(latents.movedim(2, 0).flatten(1).double())
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-4 * covariance.max()
    assert (covariance.diag().diff() <= 1e-6).all()  # the widest axis first
    assert torch.isclose(latents[:, 0].square().mean(), torch.tensor(1.0), rtol=1e-3)
    assert latents.mean(dim=(0, 1, 3, 4)).abs().max() < 1e-3
