"""Damaged files are read, or refused with a StarflowError: never another error, and never without end."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from made_media import colored, write_media
from starflow.errors import StarflowError
from starflow.media.reading import open_video, read_metadata
from starflow.media.video import write_video

NAMES = ["a.mp4", "a.gif", "a.webp", "a.mkv", "a.ts", "a.avi", "a.png", "a.jpg", "a.tif", "a.jp2", "a.avif", "a.qoi"]
MAX_FLIPS = 10


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder, frames = tmp_path_factory.mktemp("media"), colored(6)
    for name in NAMES:
        if name in ("a.mp4", "a.gif", "a.webp"):
            write_video(folder / name, frames, 8, {"prompt": "a clip"})
        elif name in ("a.mkv", "a.ts", "a.avi"):
            write_media(folder / name, frames, codec="mpeg4" if name == "a.avi" else "libx264")
        else:
            first, *others = [Image.fromarray(frame) for frame in frames]
            animated = {"save_all": True, "append_images": others, "duration": 125}
            first.save(folder / name, **(animated if name in ("a.png", "a.avif", "a.tif") else {}))
    return [(folder / name).read_bytes() for name in NAMES]


def check(folder: Path, content: bytes, kept: float, flips: list[tuple[float, int]]) -> None:
    """Read a file that is cut to a part, and in which bits are flipped, most of them near the beginning."""
    damaged = bytearray(content[: max(1, int(len(content) * kept))])
    for place, bit in flips:
        damaged[int(len(damaged) * place**3)] ^= 1 << bit
    path = folder / "damaged"
    path.write_bytes(damaged)
    with suppress(StarflowError):
        for _ in open_video(path).frames(8, (16, 16), 20):
            pass
        read_metadata(path)


damage = given(
    number=st.integers(0, len(NAMES) - 1),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=MAX_FLIPS),
)
without_limits = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=60, **without_limits)
@damage
@pytest.mark.filterwarnings("ignore")
def test_damaged_files(contents, tmp_path: Path, number: int, kept: float, flips: list[tuple[float, int]]):
    check(tmp_path, contents[number], kept, flips)


@pytest.mark.slow
@settings(max_examples=2000, **without_limits)
@damage
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files(contents, tmp_path: Path, number: int, kept: float, flips: list[tuple[float, int]]):
    check(tmp_path, contents[number], kept, flips)
