from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starflow.errors import UsageError
from starflow.media.prompts import normalize_prompt, read_prompt_lines

PLAIN = "a red circle moves right"


@pytest.mark.parametrize(
    "text",
    [
        f" {PLAIN}",
        f"{PLAIN}\n",
        PLAIN.replace(" ", "  "),
        PLAIN.replace(" ", "\u00a0"),
        PLAIN.replace(" ", "\u202f"),
        PLAIN.replace(" ", "\u3000"),
        PLAIN.replace(" ", "\t\r\n"),
        PLAIN.replace(" ", "\u2028"),
        PLAIN.replace(" ", "\x0c"),
        PLAIN.replace(" ", "\u200b"),
        f"\ufeff{PLAIN}",
        PLAIN.replace("circle", "cir\u00adcle"),
        f"\u200e{PLAIN}\x00",
    ],
)
def test_stray_spaces_and_invisible_characters_are_normalized(text: str):
    assert normalize_prompt(text) == PLAIN


def test_quotes_and_composed_characters_are_normalized():
    assert normalize_prompt("“a dog’s bone”") == '"a dog\'s bone"'
    assert normalize_prompt("cafe\u0301") == "café"


def test_emoji_and_joined_scripts_are_kept():
    text = "👩\u200d🚀 می\u200cخواهم"
    assert normalize_prompt(text) == text


def test_bytes_that_are_not_text_are_refused():
    broken = b"a red \xff circle".decode("utf-8", "surrogateescape")
    with pytest.raises(UsageError, match="not UTF-8"):
        normalize_prompt(broken)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalizing_again_changes_nothing(text: str):
    once = normalize_prompt(text)
    assert normalize_prompt(once) == once
    assert "  " not in once and once == once.strip()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_prompt_files_in_common_encodings(tmp_path: Path, encoding: str, end: str):
    path = tmp_path / "prompts.txt"
    path.write_bytes(end.join(["# a comment", "", f"  {PLAIN}", "a blue\u2028square\x0cgrows é"]).encode(encoding))
    assert read_prompt_lines(path) == [(3, PLAIN), (4, "a blue\u2028square\x0cgrows é")]


def test_a_prompt_file_without_text_or_prompts_is_refused(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"fine\na red \xff circle\n")
    with pytest.raises(UsageError, match=r"prompts\.txt, line 2: not UTF-8 text"):
        read_prompt_lines(path)
    path.write_text("# only a comment\n")
    with pytest.raises(UsageError, match="contains no prompts"):
        read_prompt_lines(path)
