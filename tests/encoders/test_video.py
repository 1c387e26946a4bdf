import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan

from starflow.encoders.tiling import TiledWanDecoder
from starflow.encoders.video import VideoCodec, WanDecoderStream, wan_decode, wan_moments
from starflow.errors import UsageError
from starflow.weights.components import KNOWN_CONFIGS


def wan(*, is_residual: bool, patch_size: int | None) -> AutoencoderKLWan:
    torch.manual_seed(0)
    channels = 3 * (patch_size or 1) ** 2
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=3,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=is_residual,
        patch_size=patch_size,
        in_channels=channels,
        out_channels=channels,
        scale_factor_spatial=4 * (patch_size or 1),
        latents_mean=[0.1, -0.2, 0.3],
        latents_std=[0.5, 1.5, 2.0],
    ).double()


CONFIGURATIONS = {
    "wan 2.1": {"is_residual": False, "patch_size": None},
    "wan 2.2": {"is_residual": True, "patch_size": 2},
    "toy": {"is_residual": True, "patch_size": 4},
}


@pytest.fixture(params=CONFIGURATIONS, scope="module")
def vae(request):
    return wan(**CONFIGURATIONS[request.param])


@pytest.fixture(scope="module")
def image_vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[4, 4],
        norm_num_groups=2,
        latent_channels=3,
        scaling_factor=0.7,
        shift_factor=0.2,
    ).double()


def a_video(num_frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.rand(2, num_frames, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 5, 13])
def test_encoding_and_decoding_equal_those_of_diffusers(vae, num_frames):
    video = a_video(num_frames).transpose(1, 2)
    moments = wan_moments(vae, video)
    posterior = vae.encode(video).latent_dist
    torch.testing.assert_close(moments, torch.cat([posterior.mean, posterior.logvar], dim=1), rtol=0, atol=1e-12)
    latents = torch.randn_like(posterior.mean) * 3
    torch.testing.assert_close(wan_decode(vae, latents).clamp(-1, 1), vae.decode(latents).sample, rtol=0, atol=1e-12)


@torch.no_grad()
def test_encoding_four_frames_at_a_time_gives_the_same_moments(vae):
    video = a_video(13).transpose(1, 2)
    torch.testing.assert_close(wan_moments(vae, video, 4), wan_moments(vae, video), rtol=0, atol=1e-12)


@torch.no_grad()
def test_latents_are_normalised_and_later_frames_scaled(vae):
    video = a_video(9)
    plain, scaled = VideoCodec(vae).encode(video), VideoCodec(vae, later_frame_scale=0.6).encode(video)
    raw = vae.encode(video.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
    assert plain.shape == (2, 3, 3, 32 // VideoCodec(vae).spatial_factor, 32 // VideoCodec(vae).spatial_factor)
    torch.testing.assert_close(plain[:, :, 1], (raw[:, :, 1] + 0.2) / 1.5)
    torch.testing.assert_close(scaled[:, 0], plain[:, 0])
    torch.testing.assert_close(scaled[:, 1:], 0.6 * plain[:, 1:])


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_decode_inverts_the_normalisation(vae, scale):
    codec = VideoCodec(vae, later_frame_scale=scale)
    video = a_video(9)
    expected = vae(video.transpose(1, 2)).sample.transpose(1, 2)
    torch.testing.assert_close(codec.decode(codec.encode(video)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_stream_decoding_equals_decoding_the_whole_video(vae, dtype, tolerance):
    codec = VideoCodec(vae.to(dtype), later_frame_scale=0.6)
    latents = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    raw = codec.denormalise(latents[:, 1:], is_first=False)
    raw = torch.cat([codec.denormalise(latents[:, :1], is_first=True), raw], dim=1)
    whole = codec.vae.decode(raw.to(dtype).transpose(1, 2)).sample.transpose(1, 2)
    pieces = list(codec.stream_decode([latents[:, :2], latents[:, 2:3], latents[:, 3:]]))
    assert [piece.shape[1] for piece in pieces] == [1, 4, 4, 4, 4]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=tolerance)
    vae.double()


def test_interleaved_streams_are_independent(vae):
    codec = VideoCodec(vae)
    one, other = torch.randn(2, 1, 3, 3, 4, 4, dtype=torch.float64).unbind()
    streams = zip(codec.stream_decode([one]), codec.stream_decode([other]), strict=True)
    together = torch.cat([piece for piece, _ in streams], dim=1)
    torch.testing.assert_close(together, codec.decode(one), rtol=0, atol=0)


def test_a_stream_that_starts_with_two_latent_frames_is_refused(vae):
    with pytest.raises(ValueError, match="one latent frame"):
        WanDecoderStream(vae)(torch.zeros(1, 3, 2, 4, 4, dtype=torch.float64))


def test_compression_factors_and_frame_counts():
    codec = VideoCodec(wan(is_residual=True, patch_size=4))
    assert (codec.spatial_factor, codec.temporal_factor, codec.latent_channels) == (16, 4, 3)
    assert [codec.num_latent_frames(frames) for frames in (1, 5, 17, 81)] == [1, 2, 5, 21]
    assert [codec.nearest_num_frames(frames) for frames in (-1, 1, 2, 3, 15, 16, 17, 80)] == [
        1,
        1,
        1,
        5,
        17,
        17,
        17,
        81,
    ]
    assert [codec.largest_num_frames(frames) for frames in (1, 2, 5, 16, 17, 80)] == [1, 1, 5, 13, 17, 77]
    with pytest.raises(UsageError, match="16 frames: the nearest possible number is 17"):
        codec.num_latent_frames(16)
    assert codec.latent_shape(2, 17, 48, 32) == (2, 5, 3, 3, 2)
    for height, width in ((40, 32), (48, 30), (0, 32), (48, -16)):
        with pytest.raises(UsageError, match=f"must be multiples of 16 pixels, not {width}×{height}"):
            codec.latent_shape(2, 17, height, width)


def test_videos_of_an_unsupported_length_or_size_are_refused(vae):
    codec = VideoCodec(vae)
    with pytest.raises(UsageError, match="cannot make 4 frames"):
        codec.encode(a_video(4))
    with pytest.raises(UsageError, match="not 32×30"):
        codec.encode(a_video(5)[..., :30, :])


def test_an_image_vae_encodes_and_decodes_single_frames(image_vae):
    codec = VideoCodec(image_vae, later_frame_scale=0.6)
    assert (codec.spatial_factor, codec.temporal_factor, codec.latent_channels) == (2, 1, 3)
    assert codec.num_latent_frames(1) == 1
    assert codec.nearest_num_frames(17) == 1
    image = a_video(1)
    latents = codec.encode(image)
    raw = image_vae.encode(image[:, 0]).latent_dist.mode()
    torch.testing.assert_close(latents[:, 0], (raw - 0.2) * 0.7)
    torch.testing.assert_close(codec.decode(latents)[:, 0], image_vae.decode(raw).sample.clamp(-1, 1))
    with pytest.raises(UsageError, match="cannot make 5 frames"):
        codec.encode(a_video(5))


def tiles(vae: AutoencoderKLWan, pixels: int) -> None:
    vae.enable_tiling(tile_sample_min_height=pixels, tile_sample_min_width=2 * pixels)


@pytest.fixture
def tiled(vae):
    tiles(vae, 32)
    yield vae
    vae.disable_tiling()


@torch.no_grad()
def test_tiled_decoding_equals_decoding_the_whole_frame(tiled):
    codec = VideoCodec(tiled, later_frame_scale=0.6)
    latents = torch.randn(1, 3, 3, 7, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    video = codec.decode(latents)
    tiled.disable_tiling()
    torch.testing.assert_close(video, codec.decode(latents), rtol=0, atol=1e-12)


@torch.no_grad()
def test_tiles_need_a_margin_as_wide_as_the_reach_of_the_convolutions(tiled):
    hidden = torch.randn(1, 3, 1, 24, 24, dtype=torch.float64)
    whole = tiled.decoder(hidden, feat_cache=[None] * 100, feat_idx=[0], first_chunk=True)
    exact, short = TiledWanDecoder(tiled), TiledWanDecoder(tiled)
    short.margin -= 2
    assert len(list(exact._corners(torch.zeros(1, 1, 1, 48, 48)))) > 4
    torch.testing.assert_close(exact(hidden, first_chunk=True), whole, rtol=0, atol=1e-12)
    assert not torch.allclose(short(hidden, first_chunk=True), whole, rtol=0, atol=1e-9)


@torch.no_grad()
def test_tiling_does_not_change_encoding(tiled):
    video = torch.rand(1, 5, 3, 64, 96, dtype=torch.float64) * 2 - 1
    latents = VideoCodec(tiled).encode(video)
    tiled.disable_tiling()
    torch.testing.assert_close(latents, VideoCodec(tiled).encode(video), rtol=0, atol=0)


def test_margin_and_tiles_of_the_released_decoder():
    with torch.device("meta"):
        vae = AutoencoderKLWan.from_config(KNOWN_CONFIGS["Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae"])
        tiles(vae, 256)
    decoder = TiledWanDecoder(vae)
    assert (len(decoder.head), len(decoder.tail)) == (2, 2)
    # three residual blocks of two convolutions and the upsampler's convolution,
    # then three residual blocks and the last convolution at twice the resolution
    assert decoder.margin == 6 + 0.5 + 3 + 0.5
    assert decoder.tile == (64, 128)  # a quarter of 256 pixels: the last level doubles the size, and patches are 2×2


def test_bfloat16_weights_give_float32_latents_and_videos():
    codec = VideoCodec(wan(is_residual=True, patch_size=4).bfloat16())
    latents = codec.encode(a_video(5).float())
    assert latents.dtype == codec.decode(latents).dtype == torch.float32
