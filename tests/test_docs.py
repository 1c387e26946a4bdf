import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.mark.parametrize("page", TABLES["PAGES"], ids=["README", "model card"])
def test_the_tables_are_those_of_the_evaluation(page: Path):
    results = json.loads((TABLES["MODEL"] / "evaluation.json").read_text())
    text = page.read_text()
    assert TABLES["filled"](text, results) == text
    for table in ("captions", "likelihood", "tasks", "surprise"):
        assert "\n".join(TABLES[table](results)) in text
