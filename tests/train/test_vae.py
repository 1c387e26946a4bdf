import os
import signal

import pytest
import torch
from diffusers import AutoencoderKLWan

from starflow.errors import UsageError
from starflow.train import vae as vae_training
from starflow.train.config import LoopConfig, OptimizerConfig, Stage, VAEModelConfig, VAETrainConfig
from starflow.train.vae import (
    MARGIN,
    TYPICAL_SHARE,
    clip_psnr,
    load_clips,
    object_weights,
    posterior_means,
    reconstruction_loss,
    stage_at,
    train_vae,
)

MODEL = VAEModelConfig(base_dim=4, z_dim=2, dim_mult=[1, 1, 1])


@pytest.fixture(autouse=True)
def few_statistics(monkeypatch):
    monkeypatch.setattr(vae_training, "NUM_STATISTICS_CLIPS", 3)
    monkeypatch.setattr(vae_training, "NUM_SAMPLES", 1)


def interrupting_stage_at(stages, step):
    if step == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return stage_at(stages, step)


def config(output):
    return VAETrainConfig(
        output=str(output),
        model=MODEL,
        optimizer=OptimizerConfig(muon_lr=0.02),
        loop=LoopConfig(num_steps=4, decay_steps=2, warmup_steps=1, accumulation=2, workers=2, checkpoint_every=2),
        stages=[Stage(num_steps=1, num_frames=1, batch_size=2), Stage(num_steps=3, num_frames=5, batch_size=1)],
        num_test_clips=2,
    )


def test_training_resumes_exactly_and_leaves_a_model_that_loads(tmp_path, monkeypatch):
    folder = train_vae(config(tmp_path / "whole"))
    monkeypatch.setattr(vae_training, "stage_at", interrupting_stage_at)
    with pytest.raises(KeyboardInterrupt):
        train_vae(config(tmp_path / "parts"))
    monkeypatch.setattr(vae_training, "stage_at", stage_at)
    resumed = train_vae(config(tmp_path / "parts"), resume=True)
    for path in folder.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes(), path.name

    vae = AutoencoderKLWan.from_pretrained(folder)
    assert vae.config.patch_size == 4
    assert vae.config.scale_factor_spatial == 16
    assert min(vae.config.latents_std) > 0
    latents = vae.encode(load_clips(0, [0, 1, 2], "train")).latent_dist.mode()
    assert latents.shape == (3, 2, 5, 4, 4)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.tensor(vae.config.latents_mean), rtol=0, atol=1e-4)
    assert (tmp_path / "whole" / "config.yaml").is_file()
    assert (tmp_path / "whole" / "held_out_psnr.jsonl").is_file()


def test_training_the_decoder_leaves_the_latents_alone(tmp_path):
    first = train_vae(config(tmp_path / "first"))
    again = config(tmp_path / "second")
    again.decoder_of = str(first)
    before, after = (AutoencoderKLWan.from_pretrained(folder) for folder in (first, train_vae(again)))
    for name in ("encoder", "quant_conv"):
        mine, theirs = getattr(before, name).state_dict(), getattr(after, name).state_dict()
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert before.config.latents_mean == after.config.latents_mean
    assert not torch.equal(before.decoder.conv_in.weight, after.decoder.conv_in.weight)

    again.decoder_of = str(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="nowhere"):
        train_vae(again)


def test_clips_follow_from_their_index():
    clips = load_clips(3, [5, 6], "train", num_frames=5)
    assert clips.shape == (2, 3, 5, 64, 64)
    torch.testing.assert_close(load_clips(3, [6], "train", num_frames=5)[0], clips[1], rtol=0, atol=0)
    whole = load_clips(3, [5], "train")
    assert any(torch.equal(whole[0, :, start : start + 5], clips[0]) for start in range(13))
    longer = load_clips(3, [5], "train", num_frames=25)
    assert longer.shape[2] == 25 and torch.equal(longer[:, :, :17], whole)


@torch.no_grad()
def test_latents_in_windows_are_those_of_clips_of_their_own():
    vae = vae_training.build_vae(MODEL)
    video = load_clips(3, [5, 6], "train", num_frames=25)
    windows = posterior_means(vae, video, in_windows=True)
    assert windows.shape == posterior_means(vae, video, in_windows=False).shape == (2, 2, 7, 4, 4)
    torch.testing.assert_close(windows[:, :, :5], posterior_means(vae, video[:, :, :17], in_windows=False))
    own = posterior_means(vae, video[:, :, 16:], in_windows=False)
    torch.testing.assert_close(windows[:, :, 5:], own[:, :, 1:])
    for short in (video[:, :, :1], video[:, :, :5], video[:, :, :17]):
        whole = posterior_means(vae, short, in_windows=False)
        torch.testing.assert_close(posterior_means(vae, short, in_windows=True), whole)


def test_objects_and_what_is_close_weigh_more_and_small_ones_as_much_as_large_ones():
    video = torch.full((2, 3, 2, 16, 16), -0.5)
    video[0, 0, 1, 6:8, 6:8] = 0.9  # 4 pixels, 64 with the margin, of the clip's 512
    video[1, 0, 1, 4:10, 4:10] = 0.9  # 36 and 144
    weights = object_weights(video, 6.0)
    assert weights[:, 0, 0].eq(1).all()
    assert [int((each > 1).sum()) for each in weights] == [(2 + 2 * MARGIN) ** 2, (6 + 2 * MARGIN) ** 2]
    extra = (weights - 1).sum(dim=(1, 2, 3, 4))
    torch.testing.assert_close(extra, torch.full((2,), 6 * TYPICAL_SHARE * 512))
    wrong_outline, wrong_background = video.clone(), video.clone()
    wrong_outline[0, :, 1, 6 - MARGIN, 6] += 0.1
    wrong_background[0, :, 1, 0, 0] += 0.1
    ratio = reconstruction_loss(wrong_outline, video, 6.0) / reconstruction_loss(wrong_background, video, 6.0)
    assert ratio == pytest.approx(1 + 6 * TYPICAL_SHARE * 512 / 64, rel=1e-4)


def test_psnr():
    video = torch.zeros(2, 3, 1, 4, 4)
    psnr = clip_psnr(torch.stack([video[0] + 0.2, video[1] + 0.02]), video)
    torch.testing.assert_close(psnr, torch.tensor([20.0, 40.0]))


def test_stages():
    stages = config("unused").stages
    assert [stage_at(stages, step) for step in range(5)] == [stages[0], *[stages[1]] * 4]
