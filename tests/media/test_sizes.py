import pytest

from starflow.errors import UsageError
from starflow.media.sizes import ASPECT_RATIOS, nearest_aspect_ratio, parse_size, size_of_aspect_ratio

SIZES_480P = {
    "1:1": (640, 640),
    "2:3": (528, 784),
    "3:2": (784, 528),
    "16:9": (848, 480),
    "9:16": (480, 848),
    "4:5": (576, 720),
    "5:4": (720, 576),
    "21:9": (976, 416),
    "9:21": (416, 976),
}


def test_sizes_of_the_released_video_model():
    assert {ratio: size_of_aspect_ratio(ratio, 640, 16) for ratio in ASPECT_RATIOS} == SIZES_480P


def test_size_of_the_released_image_model():
    assert size_of_aspect_ratio("1:1", 256, 8) == (256, 256)


@pytest.mark.parametrize("ratio", ASPECT_RATIOS)
def test_the_nearest_ratio_of_a_released_size_is_its_own(ratio: str):
    assert nearest_aspect_ratio(*size_of_aspect_ratio(ratio, 640, 16)) == ratio


def test_nearest_aspect_ratio():
    assert nearest_aspect_ratio(1920, 1080) == "16:9"
    assert nearest_aspect_ratio(65, 64) == "1:1"
    assert nearest_aspect_ratio(3000, 100) == "21:9"


@pytest.mark.parametrize("size", ["848x480", "848×480", " 848x480 "])
def test_parse_size(size: str):
    assert parse_size(size) == (848, 480)


@pytest.mark.parametrize("size", ["", "848", "0x480", "848x", "-848x480", "848X480", "8.5x4", "848x480x3", "1000000x2"])
def test_a_bad_size_is_an_error(size: str):
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        parse_size(size)


@pytest.mark.parametrize("ratio", ["", "16", "16/9", "0:9", "16:0", "a:b", "16:9:4"])
def test_a_bad_aspect_ratio_is_an_error(ratio: str):
    with pytest.raises(UsageError, match="WIDTH:HEIGHT"):
        size_of_aspect_ratio(ratio, 640, 16)


def test_a_side_of_no_pixels_is_an_error():
    with pytest.raises(UsageError, match="no pixels"):
        size_of_aspect_ratio("9999:1", 640, 16)
