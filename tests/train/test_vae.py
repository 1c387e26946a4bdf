import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from starflow.config import load_config, save_config
from starflow.data.loader import ClipLoader
from starflow.encoders.video import VideoCodec
from starflow.errors import StarflowError, UsageError
from starflow.media.frames import Frames
from starflow.media.video import write_video
from starflow.train import vae as vae_training
from starflow.train.config import LoopConfig, OptimizerConfig, Phase, VAELossConfig, VAEModelConfig, VAETrainConfig
from starflow.train.vae import (
    NoisyAutoencoder,
    VAEStep,
    build_vae,
    evaluate,
    film_strip,
    phase_at,
    posterior_means,
    reconstruction_loss,
    train_vae,
)
from starflow.train.vae_data import VAEData

MODEL = VAEModelConfig(base_dim=4, z_dim=2, dim_mult=[1, 1, 1])


def config(output: Path) -> VAETrainConfig:
    return VAETrainConfig(
        output=str(output),
        data={"source": "toyworld", "num_clips": 5},
        model=MODEL,
        loss=VAELossConfig(pixel_weights="toyworld-objects"),
        optimizer=OptimizerConfig(muon_lr=0.02),
        loop=LoopConfig(num_steps=4, decay_steps=2, warmup_steps=1, accumulation=2, workers=2, checkpoint_every=2),
        phases=[Phase(num_steps=1, num_frames=1, batch_size=2), Phase(num_steps=3, num_frames=5, batch_size=1)],
        num_test_clips=2,
    )


def clip(number: int, num_frames: int = 5, height: int = 48, width: int = 32) -> Frames:
    """A square that moves over a background, which is darker or brighter from clip to clip."""
    video = np.full((num_frames, height, width, 3), (20, 80, 250, 140, 200)[number], np.uint8)
    for frame in range(num_frames):
        left = 2 * frame + number
        video[frame, 12:28, left : left + 14] = (220, 120, 60)
    return video


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of five clips with captions."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(5):
        write_video(folder / f"{number}.gif", clip(number), fps=10)
        (folder / f"{number}.txt").write_text("a square moves right")
    return folder


def folder_config(output: Path, clips: Path, num_steps: int = 1) -> VAETrainConfig:
    return VAETrainConfig(
        output=str(output),
        data={"source": "folder", "path": str(clips)},
        num_test_clips=1,
        model=MODEL,
        optimizer=OptimizerConfig(lr=1e-2, muon_lr=0.05),
        loop=LoopConfig(num_steps=num_steps, decay_steps=num_steps // 2, warmup_steps=1, ema_decay=0.8),
        phases=[Phase(num_steps=num_steps, num_frames=5, batch_size=2)],
    )


def interrupting_phase_at(phases: list[Phase], step: int) -> tuple[Phase, int]:
    if step == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return phase_at(phases, step)


def test_training_resumes_exactly_and_saves_a_model_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = train_vae(config(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(vae_training, "phase_at", interrupting_phase_at)
        with pytest.raises(KeyboardInterrupt):
            train_vae(config(tmp_path / "parts"))
    resumed = train_vae(config(tmp_path / "parts"), resume=True)
    for path in folder.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes(), path.name

    vae = AutoencoderKLWan.from_pretrained(folder)
    assert vae.config.patch_size == 4
    assert vae.config.scale_factor_spatial == 16
    assert min(vae.config.latents_std) > 0
    training_clips = VAEData(config(tmp_path), VideoCodec(vae)).train.excerpts(0, 3, 5).transpose(1, 2)
    latents = vae.encode(training_clips).latent_dist.mode()
    assert latents.shape == (3, 2, 2, 4, 4)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.tensor(vae.config.latents_mean), rtol=0, atol=1e-4)
    assert load_config(VAETrainConfig, tmp_path / "whole" / "config.yaml") == config(tmp_path / "whole")
    assert [json.loads(line)["step"] for line in (tmp_path / "whole" / "held_out_psnr.jsonl").open()] == [4]


def test_training_the_decoder_does_not_change_the_encoder(tmp_path: Path):
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


def test_training_on_a_folder_of_clips_improves_the_reconstruction_of_a_held_out_clip(tmp_path: Path, clips: Path):
    psnr = []
    for num_steps in (1, 60):
        output = tmp_path / str(num_steps)
        folder = train_vae(folder_config(output, clips, num_steps))
        psnr.append(json.loads((output / "held_out_psnr.jsonl").read_text())["psnr"])
    assert psnr[1] > psnr[0] + 3  # 11 and 15 dB; the mean of the training clips has 11
    latents = VideoCodec(AutoencoderKLWan.from_pretrained(folder)).encode(torch.zeros(1, 5, 3, 48, 32))
    assert latents.shape == (1, 2, 2, 3, 2)


def test_marked_pixels_weigh_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: Path):
    marks = torch.zeros(2, 5, 1, 48, 32)
    marks[..., :8, :] = 1
    frames = torch.zeros(2, 5, 3, 48, 32)
    used = []
    monkeypatch.setattr(
        vae_training, "reconstruction_loss", lambda *given: used.append(given[2]) or reconstruction_loss(*given)
    )
    configuration = folder_config(tmp_path / "run", clips)
    configuration.loss.mark_weight = 20
    loader = SimpleNamespace(marked_excerpts=lambda *which: (frames, marks))
    step = VAEStep(NoisyAutoencoder(build_vae(MODEL), 0.0), cast(ClipLoader, loader), configuration)
    step(0, 0, 1.0)
    torch.testing.assert_close(used[0], 1 + 19 * marks.transpose(1, 2))

    with pytest.raises(UsageError, match="mark_weight needs a source that marks"):
        train_vae(configuration)


class TestData:
    def data(self, config: VAETrainConfig) -> VAEData:
        return VAEData(config, VideoCodec(build_vae(MODEL)))

    def test_the_last_clips_are_held_out_and_never_trained_on(self, tmp_path: Path, clips: Path):
        config = folder_config(tmp_path, clips)
        config.num_test_clips = 2
        data = self.data(config)
        held_out = list(data.held_out())
        assert [video.shape for video in held_out] == [(1, 5, 3, 48, 32)] * 2
        trained_on = {video.numpy().tobytes() for video in data.train.excerpts(0, 20, 5)}
        assert len(trained_on) == 3
        assert not trained_on & {video.numpy().tobytes() for video in held_out}

    def test_held_out_clips_can_come_from_another_source(self, tmp_path: Path, clips: Path):
        config = folder_config(tmp_path, clips)
        config.test_data = {"source": "toyworld", "num_clips": 3, "split": "test"}
        config.num_test_clips = 10
        data = self.data(config)
        assert [video.shape for video in data.held_out()] == [(1, 5, 3, 48, 32)] * 3  # fitted like the clips
        assert len({video.numpy().tobytes() for video in data.train.excerpts(0, 20, 5)}) == 5

    def test_size_and_rate_come_from_the_first_clip_or_the_config(self, tmp_path: Path, clips: Path):
        write_video(clips / "0.gif", clip(0, num_frames=9, height=55, width=47), fps=20)
        config = folder_config(tmp_path, clips)
        assert self.data(config).train.excerpts(0, 4, 5).shape == (4, 5, 3, 48, 32)
        assert self.data(config).train.fps == 20
        config.height, config.width, config.fps = 32, 64, 10
        data = self.data(config)
        assert data.train.excerpts(0, 4, 5).shape == (4, 5, 3, 32, 64)
        config.height = 40
        with pytest.raises(UsageError, match=r"multiples of 16 .* not 40×64"):
            self.data(config)

    def test_held_out_clips_are_cut_to_a_length_that_the_autoencoder_can_make(self, tmp_path: Path, clips: Path):
        write_video(clips / "4.gif", clip(4, num_frames=8), fps=10)
        write_video(clips / "3.gif", clip(3, num_frames=4), fps=10)
        config = folder_config(tmp_path, clips)
        config.num_test_clips = 2
        assert [video.shape[1] for video in self.data(config).held_out()] == [1, 5]

    def test_clips_that_cannot_be_read_are_left_out(self, tmp_path: Path, clips: Path):
        for number in (0, 4):
            (clips / f"{number}.gif").write_bytes(b"not a gif")
        config = folder_config(tmp_path, clips)
        config.num_test_clips = 2
        data = self.data(config)
        assert len(list(data.held_out())) == 1
        assert len({video.numpy().tobytes() for video in data.train.excerpts(0, 20, 5)}) == 2
        config.num_test_clips = 1
        with pytest.raises(StarflowError, match="none of the 1 held-out clips can be read"):
            self.data(config)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_test_clips": 5}, "cannot hold out 5 of the 5 clips"),
            ({"num_test_clips": 0}, "cannot hold out 0"),
            ({"phases": []}, "at least one phase"),
            ({"phases": [Phase(1, 4, 1)]}, "cannot make 4 frames: the nearest possible number is 5"),
            ({"excerpt_frames": 6}, "cannot make 6 frames"),
            ({"excerpt_frames": 1}, "more than 1"),
            ({"phases": [Phase(1, 5, 1), Phase(1, 9, 1)]}, "none of the 4 clips .* 9 frames"),
            ({"data": {"source": "folder", "path": "nowhere"}}, "no folder of clips at nowhere"),
        ],
    )
    def test_invalid_settings_are_errors(self, tmp_path: Path, clips: Path, changes: dict, message: str):
        config = folder_config(tmp_path, clips)
        for name, value in changes.items():
            setattr(config, name, value)
        with pytest.raises(StarflowError, match=message):
            self.data(config)


@torch.no_grad()
def test_excerpts_are_encoded_like_separate_clips():
    vae = build_vae(MODEL)
    video = torch.rand(2, 3, 25, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    means = posterior_means(vae, video, excerpt_frames=17)
    whole = posterior_means(vae, video)
    assert means.shape == whole.shape == (2, 2, 7, 2, 2)
    torch.testing.assert_close(means[:, :, :5], posterior_means(vae, video[:, :, :17]))
    torch.testing.assert_close(means[:, :, 5:], posterior_means(vae, video[:, :, 16:])[:, :, 1:])
    assert (means[:, :, 5:] - whole[:, :, 5:]).abs().max() > 1e-3
    for num_frames in (1, 5, 17):
        short = video[:, :, :num_frames]
        torch.testing.assert_close(posterior_means(vae, short, excerpt_frames=17), posterior_means(vae, short))


def test_the_loss_is_the_mean_squared_error_or_a_weighted_one():
    video = torch.zeros(1, 3, 2, 4, 4)
    wrong = video.clone()
    wrong[:, :, 0] = 0.5
    weights = torch.ones(1, 1, 2, 4, 4)
    assert reconstruction_loss(wrong, video, None) == reconstruction_loss(wrong, video, weights) == 0.125
    weights[:, :, 0] = 3
    assert reconstruction_loss(wrong, video, weights) == 0.25 * 3 / 4


def test_the_preview_is_a_row_of_frames_above_their_reconstructions():
    clips = [torch.rand(1, num_frames, 3, 32, 48) * 2 - 1 for num_frames in (9, 5, 1, 1, 1, 1, 1)]
    psnr, picture = evaluate(build_vae(MODEL).requires_grad_(False), clips, LoopConfig(num_steps=1, bf16=False))
    assert 0 < psnr < 20
    assert picture.shape == (3, 2 * 6 * 32, 5 * 48)
    assert picture.min() >= 0 and picture.max() <= 1
    shown = clips[0][0, [0, 2, 4, 6, 8]]
    torch.testing.assert_close(film_strip(clips[0][0]), torch.cat(list(shown), dim=-1))
    torch.testing.assert_close(picture[:, :32], film_strip(clips[0][0]) / 2 + 0.5)
    torch.testing.assert_close(picture[:, 64:96], film_strip(clips[1][0]) / 2 + 0.5)


def test_each_step_has_a_phase_and_a_number_of_clips_before_it():
    one, two = Phase(num_steps=2, num_frames=1, batch_size=4), Phase(num_steps=3, num_frames=5, batch_size=3)
    assert [phase_at([one, two], step) for step in range(4)] == [(one, 0), (one, 4), (two, 8), (two, 11)]
    assert phase_at([one, two], 100) == (two, 8 + 98 * 3)


def test_micro_steps_train_on_consecutive_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen, encoded = [], []

    class Clips:
        def marked_excerpts(self, start: int, count: int, num_frames: int) -> tuple[torch.Tensor, None]:
            seen.append((start, count, num_frames))
            return torch.zeros(count, num_frames, 3, 32, 32), None

    def spy(vae: AutoencoderKLWan, video: torch.Tensor, excerpt_frames: int | None = None) -> torch.Tensor:
        encoded.append(excerpt_frames)
        return posterior_means(vae, video)

    monkeypatch.setattr(vae_training, "posterior_means", spy)
    tiny = config(tmp_path)
    tiny.excerpt_frames = 17
    step = vae_training.VAEStep(vae_training.NoisyAutoencoder(build_vae(MODEL), 0.05), Clips(), tiny)  # type: ignore[arg-type]
    for number in range(6):
        step(number // 2, number % 2, 1.0)
    assert seen == [(0, 2, 1), (2, 2, 1), (4, 1, 5), (5, 1, 5), (6, 1, 5), (7, 1, 5)]
    assert encoded == [None, 17] * 3


def test_a_saved_config_keeps_its_sources(tmp_path: Path):
    saved = config(tmp_path)
    saved.test_data = {"source": "toyworld", "num_clips": 3}
    save_config(saved, tmp_path / "config.yaml")
    assert load_config(VAETrainConfig, tmp_path / "config.yaml") == saved
    changed = load_config(VAETrainConfig, tmp_path / "config.yaml", ["data.num_clips=9", "test_data.split=test"])
    assert changed.data["num_clips"] == 9
    assert changed.test_data == {"source": "toyworld", "num_clips": 3, "split": "test"}
