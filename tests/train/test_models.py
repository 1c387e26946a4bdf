"""The settings and the components of a model to train."""

from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clip_sources import ClipList, moving_noise
from starflow.data.buckets import Bucket
from starflow.data.clip import Clip, Edit
from starflow.data.encoding import open_latent_cache
from starflow.data.fitting import ClipFormat
from starflow.data.latents import CachedClip
from starflow.encoders.text import tiny_text_encoder
from starflow.encoders.video import VideoCodec
from starflow.encoders.vocabulary import unknown_words
from starflow.errors import UsageError
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.train.config import FlowTrainConfig, LoopConfig, PipelineConfig, VAEModelConfig
from starflow.train.models import build_pipeline, build_tokenizer, pipeline_settings, save_model
from starflow.train.vae import build_vae
from tiny_pipeline import tiny_pipeline

PARTS = {"self", "vae", "text_encoder", "tokenizer", "flow", "denoiser"}
SIZE = {"num_frames": 9, "fps": 12, "height": 32, "width": 48}


def config(**changes) -> FlowTrainConfig:
    return FlowTrainConfig(output="run", data={}, loop=LoopConfig(num_steps=1, decay_steps=0), **changes)


def test_the_settings_of_the_config_are_those_of_the_pipeline():
    assert set(vars(PipelineConfig())) == set(signature(StarFlowPipeline.__init__).parameters) - PARTS - {"caveats"}
    assert all(value is None for value in vars(PipelineConfig()).values())


def test_without_a_model_missing_settings_get_the_defaults_of_the_pipeline():
    settings = pipeline_settings(PipelineConfig(**SIZE, noise_std=0.2), None)
    assert {name: settings[name] for name in SIZE} == SIZE
    assert settings.noise_std == 0.2
    assert settings.max_text_tokens == 256
    assert settings.caption_has_fps is True


def test_with_a_model_missing_settings_are_taken_from_it():
    init = tiny_pipeline(noise_std=0.4, caption_has_fps=False, tolerance=0.05)
    settings = pipeline_settings(PipelineConfig(fps=16, tolerance=0.1), init)
    assert (settings.fps, settings.tolerance) == (16, 0.1)
    assert (settings.noise_std, settings.caption_has_fps, settings.num_frames) == (0.4, False, 9)


def test_values_of_false_and_zero_are_not_missing():
    settings = pipeline_settings(PipelineConfig(**SIZE, caption_has_fps=False, guidance_scale=0), None)
    assert settings.caption_has_fps is False
    assert settings.guidance_scale == 0


def test_the_tokenizer_knows_the_words_of_all_tasks(tmp_path: Path):
    clip = Clip(moving_noise(9), 8, ["walking"], ["standing"], [Edit("paint", moving_noise(9))])
    pipeline = tiny_pipeline()
    cache = open_latent_cache(tmp_path, ClipList([clip]), pipeline.codec, ClipFormat(9, 8, 32, 32), show_progress=False)
    settings = pipeline_settings(PipelineConfig(caption_has_noise_level=True), pipeline)
    tokenizer = build_tokenizer(cache, settings, 1000)
    words = ("walking", "standing", "paint", "extend", "last", "noise", "level", "image", "video", "fps")
    for word in words:
        assert word in {tokenizer.decode(token).strip() for token in tokenizer(word).input_ids}, word


def test_components_that_do_not_fit_together_are_usage_errors(tmp_path: Path):
    init, cache = tiny_pipeline(), None  # the cache is used only to train a tokenizer
    wide = tiny_text_encoder(300, 24, 1)
    wide.save_pretrained(tmp_path / "text_encoder")
    init.tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UsageError, match="has the width 24, but the flow needs 16"):
        build_pipeline(config(text_encoder=str(tmp_path)), init.config, init.codec, init, cache)
    codec = VideoCodec(build_vae(VAEModelConfig(base_dim=4, z_dim=8, dim_mult=[1, 1, 1])))
    with pytest.raises(UsageError, match=r"at other has 8 latent channels, but the flow of first has 4"):
        build_pipeline(config(vae="other", init="first"), init.config, codec, init, cache)


def test_further_training_adds_the_words_of_its_captions():
    init = tiny_pipeline()
    clips = [CachedClip(0, 3, ["a piano plays"], ["a grand piano"], {0: "make it louder"}, Bucket(9, 32, 48))]
    cache = SimpleNamespace(clips=clips, action_space=None)
    pipeline = build_pipeline(config(), pipeline_settings(PipelineConfig(), init), init.codec, init, cache)
    assert unknown_words(pipeline.tokenizer, "a red grand piano plays louder") == []
    assert unknown_words(pipeline.tokenizer, "a violin") == ["violin"]


def test_saving_does_not_change_the_model(tmp_path: Path):
    pipeline = tiny_pipeline()
    before = pipeline.flow.deep.proj_in.weight.clone()
    save_model(pipeline, tmp_path)
    assert torch.equal(pipeline.flow.deep.proj_in.weight, before)
    saved = StarFlowPipeline.from_pretrained(tmp_path)
    assert saved.config.noise_std == pipeline.config.noise_std
    torch.testing.assert_close(saved.flow.deep.proj_in.weight, before.bfloat16().float(), rtol=0, atol=0)
