"""Pictures and animations, read with Pillow: frames in RGB, upright, over white, with 8 bits."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from starflow.errors import StarflowError
from starflow.media.frames import Frame
from starflow.media.timing import Timed

# What Pillow reads by content (a JPEG may hold further pictures: MPO). Everything else is left to FFmpeg.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")  # the further pictures of other formats are pages or thumbnails
MAX_PIXELS = 2**28  # 268 megapixels, which take 1 GiB while a picture is read
SHORTEST_DELAY, DEFAULT_DELAY = 0.010, 0.100  # seconds: browsers show frames of up to 10 ms for 100 ms
GIF_TICK = 0.01  # seconds to which GIF rounds times
KEPT_FOR_RESAMPLING = 3  # times the size wanted: a larger picture is first reduced to this by a whole factor
BACKGROUND = "white"
HEAD_BYTES = 2**16  # of a file, in which it states its colors
HDR_PNG = re.compile(rb"cICP.[\x10\x12]", re.DOTALL)
HDR_AVIF = re.compile(rb"colrnclx..\x00[\x10\x12]", re.DOTALL)
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # of EXIF


@contextmanager
def open_picture(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """A picture or animation, recognized by its content; closed afterwards.

    Raises:
        PIL.UnidentifiedImageError: the file is none that Pillow reads here.
        StarflowError: the picture has more than `MAX_PIXELS` pixels.
    """
    Image.init()  # registers the formats
    limit, Image.MAX_IMAGE_PIXELS = (
        Image.MAX_IMAGE_PIXELS,
        None,
    )  # Pillow's own limit warns, and is below 200 megapixels
    try:
        image = Image.open(path, formats=FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        check_pixels(path, image.width, image.height)
        yield image


def is_hdr(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG or AVIF is tagged as PQ or HLG (ITU-T H.273), which Pillow ignores and FFmpeg reads.

    Raises StarflowError for an AVIF of several tiles, of which FFmpeg would read one.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"\x89PNG"):
        return HDR_PNG.search(head) is not None
    hdr = head[4:8] == b"ftyp" and HDR_AVIF.search(head) is not None
    if hdr and b"grid" in head:
        raise StarflowError(
            f"{os.fspath(path)} is an HDR picture of several tiles, which cannot be read: save it as PNG"
        )
    return hdr


def check_pixels(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raise StarflowError for a picture that is too large to be read."""
    if width * height > MAX_PIXELS:
        megapixels, limit = width * height / 1e6, MAX_PIXELS / 1e6
        raise StarflowError(
            f"{os.fspath(path)} has {megapixels:.0f} megapixels: at most {limit:.0f} can be read; scale it down first"
        )


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of a picture once it is upright. The picture is not decoded."""
    # PNG's own method would decode the picture to look for EXIF data behind it. Pillow itself turns TIFF.
    sideways = image.format != "TIFF" and Image.Image.getexif(image).get(_ORIENTATION) in _SIDEWAYS
    return (image.width, image.height) if sideways else (image.height, image.width)


def is_still(image: Image.Image) -> bool:
    """Whether a file has one picture to show, without a duration."""
    if image.format not in ANIMATED:
        return True
    return not getattr(image, "is_animated", False) and not image.info.get("duration")


def decode(image: Image.Image, size: tuple[int, int] | None = None) -> Iterator[Timed[Image.Image]]:
    """The picture, or the frames of an animation. An APNG's default image may be no part of it.

    A JPEG is decoded at a fraction of its size if that is enough for `size`, height and width.
    """
    if is_still(image):
        if size is not None:
            image.draft(None, (_enough(size), _enough(size)))
        image.load()
        yield Timed(0, 0, image)
        return
    time = 0.0
    number = int(bool(image.info.get("default_image")))
    while True:
        try:
            image.seek(number)
        except EOFError:
            return
        image.load()
        delay = float(image.info.get("duration", 0)) / 1000
        end = time + (delay if delay > SHORTEST_DELAY else DEFAULT_DELAY)
        yield Timed(time, end, image.copy())
        time, number = end, number + 1


def to_rgb(image: Image.Image, size: tuple[int, int] | None = None) -> Frame:
    """A picture as an upright array in sRGB, over white; if a size is given, scaled and cropped to it.

    A picture that is much larger than `size`, height and width, is reduced before anything else, to save memory.
    """
    image = _with_8_bits(image)
    if size is not None:
        factor = min(image.width, image.height) // _enough(size)
        image = image.reduce(factor) if factor > 1 else image
    image = ImageOps.exif_transpose(over_background(_to_srgb(image)))
    return np.asarray(image if size is None else ImageOps.fit(image, (size[1], size[0])))


def _enough(size: tuple[int, int]) -> int:
    """The length of the shorter side, in pixels, from which a picture is scaled down to `size` without loss."""
    return KEPT_FOR_RESAMPLING * max(size)


def over_background(image: Image.Image) -> Image.Image:
    """A picture in RGB, with what is transparent over `BACKGROUND`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, BACKGROUND)
    flat = Image.alpha_composite(background, image).convert("RGB")
    flat.info = image.info  # has the orientation
    return flat


def _to_srgb(image: Image.Image) -> Image.Image:
    """The colors converted from the picture's ICC profile, if it has a valid one."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        converted = ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except (ImageCms.PyCMSError, OSError):
        return image
    assert converted is not None
    converted.info = image.info
    return converted


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Grays of 16 bits, 32 bits and floats as 8 bits, and palettes and bitmaps as colors."""
    if image.mode in ("1", "P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode.startswith("I;16"):
        gray = np.asarray(image)
        result = Image.fromarray(((gray - (gray >> 8) + 128) >> 8).astype(np.uint8))  # round(gray / 257)
    elif image.mode in ("I", "F"):
        result = Image.fromarray(_scaled(np.asarray(image), image.mode == "F"))
    else:
        return image
    result.info = {name: value for name, value in image.info.items() if name == "exif"}
    return result


def _scaled(gray: NDArray[np.generic], is_float: bool) -> NDArray[np.uint8]:
    """Grays as uint8. White is the smallest usual maximum that holds all: 1 (floats), 255, 65535 or 2^31-1."""
    top = float(gray.max())
    if not np.isfinite(gray).all():
        raise StarflowError("a picture has gray levels that are NaN or infinite")
    usual = [1, 255, 65535, 2**31 - 1] if is_float else [65535, 2**31 - 1]
    white = next((value for value in usual if top <= value), top)
    return np.rint(np.clip(gray.astype(np.float32) / white, 0, 1) * 255).astype(np.uint8)
