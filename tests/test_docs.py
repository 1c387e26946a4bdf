import json
import runpy
from pathlib import Path

import pytest

TABLES = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "tables.py"))


@pytest.mark.parametrize("page", TABLES["PAGES"], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_tables_agree_with_the_stored_measurements(page: Path):
    text = page.read_text()
    assert TABLES["filled"](text) == text


def test_retrieval_agrees_with_the_stored_measurement():
    results = json.loads((TABLES["MODEL"] / "evaluation.json").read_text())
    sentence = f"likeliest for {TABLES['share'](results['retrieval']['top_1'])} of {results['retrieval']['top_1']['n']}"
    assert all(sentence in page.read_text() for page in TABLES["PAGES"][:2])


def test_every_table_exists():
    pages = "\n".join(page.read_text() for page in TABLES["PAGES"])
    for header in ("held-out captions, share right", "autoencoder and flow", "task", "second", "planted violation"):
        assert f"\n| {header}" in pages
    assert "\n| frames; seconds" in pages
    assert "\n| frames, batch" in pages
