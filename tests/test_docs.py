import json
import runpy
from pathlib import Path

import pytest

from starflow.media.video import read_video
from starflow.toyworld.reader.checker import check

PAGES = Path(__file__).parents[1] / "docs"
TABLES = runpy.run_path(str(PAGES / "tables.py"))


@pytest.mark.parametrize("page", TABLES["PAGES"], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_tables_agree_with_the_stored_measurements(page: Path):
    text = page.read_text()
    assert TABLES["filled"](text) == text


def test_retrieval_agrees_with_the_stored_measurement():
    results = json.loads((TABLES["MODEL"] / "evaluation.json").read_text())
    sentence = f"likeliest for {TABLES['share'](results['retrieval']['top_1'])} of {results['retrieval']['top_1']['n']}"
    assert all(sentence in page.read_text() for page in TABLES["PAGES"][:2])


def test_the_pages_have_every_table():
    pages = "\n".join(page.read_text() for page in TABLES["PAGES"])
    for header in ("held-out captions, share right", "autoencoder and flow", "task", "second", "planted violation"):
        assert f"\n| {header}" in pages
    assert "\n| frames; seconds" in pages
    assert "\n| frames, batch" in pages


def test_the_clips_of_the_tutorial_show_what_their_captions_mean(tmp_path: Path):
    zork = runpy.run_path(str(PAGES / "zork.py"))
    zork["make"](tmp_path)
    captions = [path.read_text().strip() for path in sorted(tmp_path.glob("*.txt"))]
    clips = [read_video(path)[0] for path in sorted(tmp_path.glob("*.mp4"))]
    assert len(clips) == len(captions) == 50
    assert "a zork moves right" not in captions
    meant = [caption.replace("zork", "purple triangle") for caption in captions]
    right = [check(clip, caption).all_correct for clip, caption in zip(clips, meant, strict=True)]
    assert sum(right) >= 48  # the checker may err
