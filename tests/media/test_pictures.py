"""Pictures of all kinds: orientation, modes, transparency, profiles, sizes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from made_media import colored
from starflow.errors import StarflowError
from starflow.media import pictures
from starflow.media.reading import open_video, read_video

PICTURE = colored(1, 48, 64)[0]


def read(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    video = open_video(path)
    (frame,) = video.frames(size=size)
    assert video.is_image
    assert size is not None or (video.height, video.width) == frame.item.shape[:2]
    return frame.item


def save(path: Path, image: Image.Image | np.ndarray, **options) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


UPRIGHT = {  # by EXIF orientation, what turns the stored picture upright
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "a.jpe", "a", "a.png", "a.webp", "a.tif", "a.avif"])
def test_pictures_are_turned_upright(tmp_path: Path, name: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    marked = PICTURE.copy()
    marked[:16, :, 2] = 250
    format = {"": "JPEG"}.get(Path(name).suffix)
    read_back = read(save(tmp_path / name, marked, exif=exif, format=format))
    expected = UPRIGHT[orientation](marked)
    assert read_back.shape == expected.shape
    assert np.abs(read_back.astype(int) - expected).mean() < 5


def test_further_pictures_of_a_phone_are_ignored(tmp_path: Path):
    other = Image.new("RGB", (16, 16), "magenta")
    path = save(tmp_path / "a.jpg", PICTURE, format="MPO", save_all=True, append_images=[other], quality=95)
    assert np.abs(read(path).astype(int) - PICTURE).mean() < 5


def test_the_first_page_of_a_tiff_is_the_picture(tmp_path: Path):
    path = save(tmp_path / "a.tif", PICTURE, save_all=True, append_images=[Image.new("RGB", (16, 16), "magenta")])
    assert np.array_equal(read(path), PICTURE)


GRAY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(1, 64).repeat(48, 0)


@pytest.mark.parametrize(
    ("name", "gray"),
    [
        ("a.png", GRAY),
        ("a.png", GRAY.astype(np.uint16) * 257),
        ("a.tif", GRAY.astype(np.uint16) * 257),
        ("a.pgm", GRAY.astype(np.uint16) * 257),
        ("a.tif", GRAY.astype(np.int32) * 257),
        ("a.tif", GRAY.astype(np.float32) / 255),
        ("a.tif", GRAY.astype(np.float32)),
        ("a.tif", GRAY.astype(np.float32) * 257),
        ("a.pfm", GRAY.astype(np.float32) / 255),
    ],
)
def test_grays_of_any_depth(tmp_path: Path, name: str, gray: np.ndarray):
    assert np.abs(read(save(tmp_path / name, gray)).astype(int) - GRAY[..., None]).max() <= 1
    assert read(tmp_path / name, (24, 32)).shape == (24, 32, 3)


def test_a_gray_of_nan_is_an_error(tmp_path: Path):
    with pytest.raises(StarflowError, match="NaN"):
        read_video(save(tmp_path / "a.tif", np.full((8, 8), np.nan, np.float32)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_modes(tmp_path: Path, mode: str):
    image = Image.new("RGB", (64, 48), "white")
    image.paste((0, 0, 0), (0, 0, 32, 48))
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    read_back = read(save(tmp_path / name, image.convert(mode)))
    assert np.abs(read_back.astype(int) - np.asarray(image)).max() <= 8


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.avif"])
def test_what_is_transparent_is_white(tmp_path: Path, name: str):
    image = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 32, 48))
    read_back = read(save(tmp_path / name, image)).astype(int)
    assert np.abs(read_back[24, 8] - (200, 0, 0)).max() <= 6
    assert np.abs(read_back[24, 56] - 255).max() <= 2


def test_half_transparent_over_white(tmp_path: Path):
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 128))
    assert np.abs(read(save(tmp_path / "a.png", image))[0, 0].astype(int) - (227, 127, 127)).max() <= 1


def test_transparent_palettes(tmp_path: Path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(0, (0, 0, 4, 8))
    path = save(tmp_path / "a.png", image, transparency=1)
    assert read(path)[0, [0, 7]].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_color_profile_is_converted_and_a_bad_one_ignored(tmp_path: Path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", lab[:100]):
        path = save(tmp_path / "a.png", PICTURE, icc_profile=profile)
        assert np.abs(read(path).astype(int) - PICTURE).max() <= 1
    # The primaries of sRGB in another order: red is what green was.
    swapped = bytearray(srgb)
    red, green = (swapped.index(tag) for tag in (b"rXYZ", b"gXYZ"))
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    path = save(tmp_path / "a.png", np.full((8, 8, 3), (250, 10, 10), np.uint8), icc_profile=bytes(swapped))
    assert np.abs(read(path)[0, 0].astype(int) - (10, 250, 10)).max() <= 12


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_large_picture_is_reduced_while_it_is_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    large = np.full((480, 640, 3), (250, 40, 40), np.uint8)
    path = save(tmp_path / name, large)
    sizes = []
    flatten = pictures.over_background
    monkeypatch.setattr(pictures, "over_background", lambda image: sizes.append(image.size) or flatten(image))
    small = read(path, (16, 16))
    assert small.shape == (16, 16, 3)
    assert np.abs(small.astype(int) - large[0, 0]).max() <= 3
    assert max(sizes[0]) <= 128


def test_too_large_a_picture_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 48 * 64 - 1)
    path = save(tmp_path / "a.png", PICTURE)
    with pytest.raises(StarflowError, match=r"a\.png has 0 megapixels: at most 0 can be read"):
        read_video(path)
    assert pictures.Image.MAX_IMAGE_PIXELS is not None, "other users of Pillow keep its limit"


def test_the_limit_admits_200_megapixels():
    assert pictures.MAX_PIXELS >= 16320 * 12240
