import io
from base64 import b64decode

import numpy as np
from PIL import Image

from html_page import Page
from starflow.evaluation.contract import Card
from starflow.evaluation.report.pictures import MAX_HEIGHT
from starflow.evaluation.report.pieces import FRAMES_SHOWN, clip_cards, mean, plain, share
from starflow.evaluation.statistics import proportion


def test_shares_and_means():
    assert plain(share(proportion([True, True, False, True]))) == "75.0% [30.1, 95.4], 3 of 4"
    assert share(proportion([])) == mean(None, 2, "dB") == "–"
    assert plain(mean({"mean": 1.234, "standard_error": 0.01}, 2, "dB")) == "1.23 ± 0.01 dB"
    assert mean({"mean": 1.234, "standard_error": None}, 1, "dB") == "1.2 dB"
    assert plain("a &lt;b&gt; <small>c</small>") == "a <b> c"


def test_large_frames_are_scaled_down():
    shape = (9, 2 * MAX_HEIGHT, 4 * MAX_HEIGHT, 3)
    clip = np.broadcast_to(np.arange(0, 180, 20, dtype=np.uint8)[:, None, None, None], shape)
    animation, strip = (
        Image.open(io.BytesIO(b64decode(picture.partition(",")[2])))
        for picture in Page(clip_cards([Card("a clip", {"": clip})], 8)).pictures
    )
    assert animation.size == (2 * MAX_HEIGHT, MAX_HEIGHT)
    assert animation.n_frames == 9
    assert strip.height == MAX_HEIGHT
    assert strip.width > FRAMES_SHOWN * 2 * MAX_HEIGHT


def test_a_card_has_its_title_labels_and_marks():
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    page = Page(clip_cards([Card("a <red> circle", {"made": picture}, [("red", True), ("circle", False)])], 8))
    assert len(page.pictures) == 1
    for text in ("a <red> circle", "made", "red\N{NO-BREAK SPACE}✓", "circle\N{NO-BREAK SPACE}✗"):
        assert text in page.text
