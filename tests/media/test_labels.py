from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from starflow.media import labels
from starflow.media.labels import FONT_SIZE, LABEL_HEIGHT, _shortened, label

LATIN_ONLY = ImageFont.load_default(size=FONT_SIZE)


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_characters_that_no_font_has_are_question_marks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, "_fonts", lambda: [LATIN_ONLY])
    assert same(label("a 愛 Ж b", 200), label("a ? ? b", 200))
    assert not same(label("a b", 200), label("a ? b", 200))


def test_the_font_that_has_most_characters_draws_the_line(monkeypatch: pytest.MonkeyPatch):
    folder = Path(pytest.importorskip("matplotlib").get_data_path())
    cyrillic = ImageFont.truetype(folder / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)
    monkeypatch.setattr(labels, "_fonts", lambda: [LATIN_ONLY, cyrillic])
    both = label("Красный круг", 200)
    monkeypatch.setattr(labels, "_fonts", lambda: [cyrillic])
    assert same(both, label("Красный круг", 200))
    assert not same(both, label("??????? ????", 200))


def test_a_line_is_cut_to_its_width():
    short, long = (label("a red circle " * times, 100) for times in (1, 1000))
    assert short.size == long.size == (100, LABEL_HEIGHT)
    assert same(long, label("a red circle " * 20, 100))


@pytest.mark.parametrize("width", [20, 100, 500])
def test_a_shortened_line_fits_and_ends_with_an_ellipsis(width: int):
    line = "a red circle moves right and " * 9
    shortened = _shortened(line, width, LATIN_ONLY)
    assert shortened.endswith("…")
    assert LATIN_ONLY.getlength(shortened) <= width < LATIN_ONLY.getlength(line)
    assert _shortened("a red circle", 500, LATIN_ONLY) == "a red circle"
