import pytest

from starflow.cli.outputs import output_of, outputs_in_folder
from starflow.errors import UsageError


def names(prompts: list[str], samples: int = 1, name: str | None = None) -> list[str]:
    return [each.path for each in outputs_in_folder(prompts, samples, "clips", name)]


def test_one_video_has_the_given_path():
    assert output_of("a dog", "dog.gif") == [("a dog", "dog.gif")]
    assert output_of("a dog", None) == [("a dog", "video.mp4")]


def test_default_names_have_the_number_and_the_words_of_the_prompt():
    assert names(["A dog: runs!", "über 愛 ✨"]) == ["clips/000-a-dog-runs.mp4", "clips/001-über-愛.mp4"]
    assert names(["a dog"], 2) == ["clips/000-a-dog-0.mp4", "clips/000-a-dog-1.mp4"]
    assert names(["✨"]) == ["clips/000-video.mp4"]


def test_a_long_prompt_ends_after_a_whole_word():
    (path,) = names(["a red circle " * 10])
    assert path == "clips/000-a-red-circle-a-red-circle-a-red-circle-a-red-circle-a-red.mp4"
    assert names(["x" * 100]) == [f"clips/000-{'x' * 60}.mp4"]


def test_a_name_as_vbench_wants_it():
    assert names(["A dog, v1.5", "up/down"], 2, "{prompt}-{index}") == [
        *("clips/A dog, v1.5-0.mp4", "clips/A dog, v1.5-1.mp4"),
        *("clips/up-down-0.mp4", "clips/up-down-1.mp4"),
    ]
    assert names(["a dog"], 1, "{number}.gif") == ["clips/000.gif"]


@pytest.mark.parametrize(
    ("name", "message"), [("{prompt}", "gives two videos the name"), ("{promt}-{index}", "knows no {promt}")]
)
def test_names_that_cannot_be_used(name: str, message: str):
    with pytest.raises(UsageError, match=message):
        names(["a dog"], 2, name)


def test_several_videos_need_a_folder():
    with pytest.raises(UsageError, match="need a folder"):
        outputs_in_folder(["a dog"], 2, "clip.mp4", None)
    assert outputs_in_folder(["a dog"], 2, None, "{index}")[1].path == "videos/1.mp4"
