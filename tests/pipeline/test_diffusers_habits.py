"""What users of diffusers' pipelines do, with tiny random weights."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from starflow.encoders.video import VideoCodec, wan_moments
from starflow.errors import StarflowError, UsageError
from starflow.hardware.placement import place
from starflow.pipeline.options import FOREIGN
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline, tiny_vae

PROMPT = CAPTIONS[0]


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    torch.manual_seed(0)
    return tiny_pipeline()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(pipeline: StarFlowPipeline, prompt: str | list[str] = PROMPT, **options: Any) -> torch.Tensor:
    options = {"generator": seeded(), "tolerance": 1e-6, "guidance_scale": 2.0, "output_type": "latent"} | options
    return pipeline(prompt, **options).frames


# --- callbacks -------------------------------------------------------------------------------------------------------


def test_the_latents_that_a_callback_returns_replace_the_frame_for_all_that_follows(pipeline: StarFlowPipeline):
    def double(_: StarFlowPipeline, frame: int, __: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latents": tensors["latents"] * 2} if frame == 1 else {}

    def double_in_place(_: StarFlowPipeline, frame: int, __: int, tensors: dict[str, torch.Tensor]) -> None:
        tensors["latents"] *= 1 + (frame == 1)

    seen: list[torch.Tensor] = []
    plain = latents(pipeline, callback_on_step_end=lambda *step: seen.append(step[3]["latents"].clone()))
    changed = latents(pipeline, callback_on_step_end=double)
    torch.testing.assert_close(latents(pipeline, callback_on_step_end=double_in_place), changed)
    assert not torch.allclose(changed[:, 1], plain[:, 1], atol=1e-3)
    assert not torch.allclose(changed[:, 2], plain[:, 2], atol=1e-3)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ({"latents": torch.zeros(1)}, UsageError, r"must be a tensor of the shape \(1, 1, 2, 2, 4\)"),
        ({"prompt_embeds": torch.zeros(1)}, UsageError, "must return None or"),
        (True, UsageError, "must return None or"),
        ({"latents": torch.full((1, 1, 2, 2, 4), torch.nan)}, StarflowError, "the latents of callback_on_step_end has"),
    ],
)
def test_what_a_callback_cannot_return_is_refused(
    returned: object, error: type[Exception], message: str, pipeline: StarFlowPipeline
):
    with pytest.raises(error, match=message):
        latents(pipeline, callback_on_step_end=lambda *_: returned)


def test_a_callback_gets_latents_and_no_other_tensors(pipeline: StarFlowPipeline):
    latents(pipeline, callback_on_step_end_tensor_inputs=["latents"])
    with pytest.raises(UsageError, match=r"tensor_inputs must be \['latents'\], not \['prompt_embeds'\]"):
        latents(pipeline, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_an_interrupted_video_ends_with_the_current_frame(pipeline: StarFlowPipeline):
    def stop(pipe: StarFlowPipeline, frame: int, *_: object) -> None:
        pipe._interrupt = frame == 1

    assert latents(pipeline, callback_on_step_end=stop).shape[1] == 2
    assert latents(pipeline, callback_on_step_end=stop, output_type="pt").shape[1] == 5
    with pipeline.stream(PROMPT, callback_on_step_end=stop) as stream:
        assert len(list(stream)) == 5
    assert pipeline.interrupt
    assert latents(pipeline).shape[1] == 3  # the next call starts anew
    assert not pipeline.interrupt


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGN)
def test_arguments_without_a_meaning_here_are_refused_with_what_to_use(name: str, pipeline: StarFlowPipeline):
    with pytest.raises(TypeError, match=f"the pipeline has no option {name}: {FOREIGN[name][:20]}"):
        pipeline(PROMPT, **{name: 1})


def test_an_unknown_argument_is_refused_with_the_nearest_name(pipeline: StarFlowPipeline):
    with pytest.raises(TypeError, match=r"no option guidance_scael: did you mean guidance_scale\?"):
        pipeline(PROMPT, guidance_scael=1.0)
    with pytest.raises(TypeError, match="the pipeline has no option xyz: choose actions, context, extend"):
        pipeline.stream(PROMPT, xyz=1.0)


def test_several_videos_of_each_prompt_have_their_own_noise(pipeline: StarFlowPipeline):
    generators = [seeded(seed) for seed in range(4)]
    image = torch.rand(2, 3, 32, 32, generator=seeded())
    options = {"num_videos_per_prompt": 2, "image": image}
    videos = latents(pipeline, CAPTIONS[:2], generator=generators, **options)
    for index in range(4):
        alone = latents(pipeline, CAPTIONS[index // 2], generator=seeded(index), image=image[index // 2])
        torch.testing.assert_close(videos[index], alone[0], atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match="one prompt"):
        pipeline.stream(PROMPT, num_videos_per_prompt=2)


def test_a_tuple_is_returned_without_return_dict(pipeline: StarFlowPipeline):
    frames, report = pipeline(PROMPT, generator=seeded(), output_type="latent", return_dict=False)
    assert frames.shape == (1, 3, 4, 2, 2)
    assert report.deep.converged


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ([seeded()], "must have one for each of the 2 videos, not 1"),
        ([seeded()] * 3, "must have one for each of the 2 videos, not 3"),
        ([], "must have one for each of the 2 videos, not 0"),
        (0, "must be a torch.Generator or a list of them, not 0"),
        ([0, 1], "must be a torch.Generator or a list of them"),
    ],
)
def test_the_wrong_number_or_kind_of_generators_is_refused(generator: object, message: str, pipeline: StarFlowPipeline):
    with pytest.raises(UsageError, match=message):
        latents(pipeline, CAPTIONS[:2], generator=generator)


def test_guidance_far_above_that_of_the_model_is_reported(pipeline: StarFlowPipeline, caplog: pytest.LogCaptureFixture):
    usual = pipeline.config.guidance_scale
    latents(pipeline, guidance_scale=2 * usual)
    assert caplog.messages == []
    pipeline.plan(PROMPT, guidance_scale=2.5 * usual)
    assert caplog.messages == [
        f"guidance_scale {2.5 * usual:g} is far above the {usual:g} of this model: the video may be nonsense"
    ]


@pytest.mark.parametrize("prompt", [None, 3, [None], [PROMPT, 3], {"a": 1}])
def test_prompts_that_are_not_text_are_refused(prompt: Any, pipeline: StarFlowPipeline):
    with pytest.raises(UsageError, match="the prompt must be a string or a list of strings"):
        pipeline(prompt)


# --- components ------------------------------------------------------------------------------------------------------


def test_a_pipeline_of_the_components_of_another_has_its_settings(pipeline: StarFlowPipeline):
    for other in (StarFlowPipeline(**pipeline.components), StarFlowPipeline.from_pipe(pipeline)):
        assert other.flow is pipeline.flow
        other.set_progress_bar_config(disable=True)
        assert torch.equal(latents(other), latents(pipeline))
        for name in ("noise_std", "num_frames", "fps", "height", "width", "guidance_scale", "max_text_tokens"):
            assert other.config[name] == pipeline.config[name]
    assert StarFlowPipeline(**pipeline.components | {"noise_std": 0.1}).config.noise_std == 0.1


@pytest.mark.parametrize("replace", ["assign", "register_modules"])
def test_another_vae_takes_effect(replace: str, pipeline: StarFlowPipeline):
    other = StarFlowPipeline(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    before = latents(other, output_type="pt")
    torch.manual_seed(1)
    if replace == "assign":
        other.vae = tiny_vae()
    else:
        other.register_modules(vae=tiny_vae())
    assert not torch.allclose(latents(other, output_type="pt"), before, atol=1e-3)


def test_a_copy_of_a_pipeline_makes_the_same_video_and_shares_no_weights(pipeline: StarFlowPipeline):
    duplicate = copy.deepcopy(pipeline)
    assert torch.equal(latents(duplicate), latents(pipeline))
    assert duplicate.codec.vae is duplicate.vae is not pipeline.vae
    assert duplicate.flow is not pipeline.flow


def test_a_pipeline_can_be_moved_after_offloading(pipeline: StarFlowPipeline):
    moved = copy.deepcopy(pipeline)
    moved.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(latents(moved), latents(pipeline))
    moved.remove_all_hooks()
    torch.testing.assert_close(latents(moved.to("cpu")), latents(pipeline))
    with pytest.raises(UsageError, match=r"use enable_model_cpu_offload\(\), or starflow"):
        moved.enable_sequential_cpu_offload()


# --- precision and grad modes ----------------------------------------------------------------------------------------

IMAGE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_pipeline_can_be_moved_to_another_precision_and_back(pipeline: StarFlowPipeline):
    want = latents(pipeline, image=IMAGE)
    moved = copy.deepcopy(pipeline).to(torch.float64)
    precise = latents(moved, image=IMAGE)
    assert precise.dtype == torch.float64
    torch.testing.assert_close(precise.float(), want, atol=1e-4, rtol=0)
    torch.testing.assert_close(latents(moved.to(torch.float32), image=IMAGE), want)


@pytest.mark.parametrize("has_denoiser", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_precision_makes_batches_and_streams(dtype: torch.dtype, has_denoiser: bool, pipeline: StarFlowPipeline):
    moved = copy.deepcopy(pipeline).to(dtype)
    if not has_denoiser:
        moved.denoiser = None
    assert moved(CAPTIONS[:2], output_type="pt").frames.shape == (2, 9, 3, 32, 32)
    assert len(list(moved.stream(PROMPT, image=IMAGE))) == 9


def test_a_vae_in_float16_encodes_in_float32(pipeline: StarFlowPipeline):
    half = copy.deepcopy(pipeline)
    half.vae.encoder.conv_in.weight.data *= 1e6  # activations beyond the range of float16
    video = IMAGE[None, None] * 2 - 1
    half.vae.half()
    assert not wan_moments(half.vae, video.half().transpose(1, 2)).isfinite().all()
    encoded = half.codec.encode(video)
    assert half.vae.dtype == torch.float16
    assert torch.equal(half.codec.encode(video), encoded)  # the weights are as before
    torch.testing.assert_close(encoded, VideoCodec(copy.deepcopy(half.vae).float()).encode(video))
    place(half, "cpu", "group")
    with pytest.raises(StarflowError, match=r"the VAE cannot encode this in torch\.float16: use bfloat16 or float32"):
        half.codec.encode(video)


@pytest.mark.parametrize("has_denoiser", [True, False])
def test_a_pipeline_works_in_inference_mode(has_denoiser: bool, pipeline: StarFlowPipeline, tmp_path: Path):
    other = copy.deepcopy(pipeline)
    if not has_denoiser:
        other.denoiser = None
    want = latents(other, image=IMAGE, output_type="pt")
    other.save_pretrained(tmp_path)
    with torch.inference_mode():
        loaded = StarFlowPipeline.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        torch.testing.assert_close(latents(loaded, image=IMAGE, output_type="pt"), want, atol=1e-4, rtol=0)
        stream = other.stream(PROMPT, image=IMAGE, generator=seeded(), num_frames=29 if has_denoiser else 9)
        next(stream)
    assert len(list(stream)) == (28 if has_denoiser else 8)
    assert torch.is_grad_enabled()


# --- loading ---------------------------------------------------------------------------------------------------------


def cached_repository(cache: Path, name: str, revision: str, number: str) -> Path:
    """The folder of a repository's revision in a cache of the hub."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(number * 40)
    return repository / "snapshots" / (number * 40)


def test_a_model_is_found_in_the_cache_and_revision_that_are_named(pipeline: StarFlowPipeline, tmp_path: Path):
    pipeline.save_pretrained(cached_repository(tmp_path, "owner/model", "main", "a"))
    where = {"cache_dir": tmp_path, "local_files_only": True, "token": False}
    assert StarFlowPipeline.from_pretrained("owner/model", **where).config.num_frames == 9
    other = StarFlowPipeline(**pipeline.components | {"num_frames": 5})
    other.save_pretrained(cached_repository(tmp_path, "owner/model", "short", "b"), variant="fp16")
    loaded = StarFlowPipeline.from_pretrained("owner/model", revision="short", variant="fp16", **where)
    assert loaded.config.num_frames == 5
    with pytest.raises(StarflowError, match="local_files_only is set"):
        StarFlowPipeline.from_pretrained("owner/other", **where)


def test_components_of_other_repositories_are_found_in_the_same_cache(pipeline: StarFlowPipeline, tmp_path: Path):
    vae = cached_repository(tmp_path, "owner/parts", "main", "c") / "vae"
    folder = cached_repository(tmp_path, "owner/model", "v2", "a")
    pipeline.save_pretrained(folder)
    vae.parent.mkdir(parents=True)
    (folder / "vae").rename(vae)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_components": {"vae": "owner/parts/vae"}}))
    loaded = StarFlowPipeline.from_pretrained("owner/model", cache_dir=tmp_path, local_files_only=True, revision="v2")
    assert torch.equal(loaded.vae.encoder.conv_in.weight, pipeline.vae.encoder.conv_in.weight)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_model_loads_in_the_precision_asked_for(
    name: str, dtype: torch.dtype, pipeline: StarFlowPipeline, tmp_path: Path
):
    pipeline.save_pretrained(tmp_path)
    loaded = StarFlowPipeline.from_pretrained(tmp_path, **{name: dtype})
    loaded.set_progress_bar_config(disable=True)
    assert loaded.flow.dtype == loaded.vae.dtype == loaded.text_encoder.dtype == dtype
    assert latents(loaded).shape == (1, 3, 4, 2, 2)
