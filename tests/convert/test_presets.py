"""The released models by name, and the released project's configuration files."""

from pathlib import Path

import pytest

from released_checkpoint import ARGUMENTS, IMAGE, VIDEO, save_components, write_config
from starflow.convert.presets import preset_of_file, read_arguments, released_model
from starflow.errors import UsageError


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_components(tmp_path_factory.mktemp("components"))


def test_the_preset_of_the_video_model():
    model = released_model("starflow-v-7b")
    assert str(model.vae) == "Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae"
    assert str(model.text_encoder) == "google/flan-t5-xl"
    assert model.settings == {
        "noise_std": 0.5,
        "num_frames": 81,
        "fps": 16,
        "height": 480,
        "width": 848,
        "max_text_tokens": 256,
        "later_frame_scale": 0.6,
        "caption_has_fps": True,
        "caption_has_noise_level": True,
        "caption_has_aspect_ratio": True,
        "guidance_scale": 4.5,
    }


def test_the_preset_of_the_image_model():
    model = released_model("starflow-3b")
    assert str(model.vae) == "stabilityai/sd-vae-ft-ema"
    assert model.settings == {
        "noise_std": 0.3,
        "num_frames": 1,
        "fps": 16,
        "height": 256,
        "width": 256,
        "max_text_tokens": 128,
        "later_frame_scale": 1.0,
        "caption_has_fps": False,
        "caption_has_noise_level": False,
        "caption_has_aspect_ratio": False,
        "guidance_scale": 4.6,
    }


def test_a_configuration_file_of_a_video_model_is_read(components: dict[str, str], tmp_path: Path):
    model = released_model(write_config(tmp_path, VIDEO | components))
    assert model.arguments == ARGUMENTS | {"txt_size": 32}
    assert model.vae.source == components["vae"].removesuffix(":0.6")
    assert model.settings["later_frame_scale"] == 0.6
    assert (model.settings["num_frames"], model.settings["fps"]) == (9, 8)
    assert (model.settings["width"], model.settings["height"]) == (48, 32)  # about 16:9 in squares of 16 pixels


def test_a_configuration_file_of_an_image_model_is_read(components: dict[str, str], tmp_path: Path):
    model = released_model(write_config(tmp_path, IMAGE | components | {"layers_per_block": 2}))
    assert model.arguments["img_size"] == 2
    assert model.arguments["layers_per_block"] == [2, 2, 2]
    assert (model.settings["width"], model.settings["height"]) == (32, 32)
    assert model.settings["num_frames"] == 1


def test_given_components_override_those_of_the_configuration(components: dict[str, str], tmp_path: Path):
    config = write_config(tmp_path, VIDEO | {"vae": "owner/missing:0.6", "text": "owner/missing"})
    model = released_model(config, components["vae"].removesuffix(":0.6"), components["text"])
    assert model.text_encoder.source == components["text"]
    assert model.settings["later_frame_scale"] == 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chanels": 3}, "unknown argument chanels: did you mean channels"),
        ({"nvp": 0}, "nvp=0: only 1 is supported"),
        ({"finetuned_vae": "px82"}, "finetuned_vae='px82'"),
        ({"txt_size": "null"}, "does not give txt_size"),
        ({"vae": "null"}, "does not give vae"),
    ],
)
def test_invalid_arguments_are_refused(change: dict, message: str, components: dict[str, str], tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        released_model(write_config(tmp_path, VIDEO | components | change))


@pytest.mark.parametrize("content", ["", "a: b", "arguments: 3", "arguments:\n- 3", "arguments: [", "\x00", "- a: 1"])
def test_files_without_a_configuration_are_refused(content: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match="is not a configuration of the released project"):
        read_arguments(path)


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        UsageError, match="no configuration starflow-v-8b: choose starflow-v-7b, starflow-3b, or a file"
    ):
        released_model("starflow-v-8b")


@pytest.mark.parametrize(
    ("filename", "preset"),
    [
        ("starflow-v_7B_t2v_caus_480p_v3.pth", "starflow-v-7b"),
        ("ckpts/starflow-v_7B_t2v_caus_480p.pth", "starflow-v-7b"),
        ("apple/starflow/starflow_3B_t2i_256x256.pth", "starflow-3b"),
        ("model.pth", None),
    ],
)
def test_released_files_are_recognised_by_name(filename: str, preset: str | None):
    assert preset_of_file(filename) == preset
