"""Prompts as people write them: text files in common encodings, and text with stray spaces and invisible characters."""

import codecs
import unicodedata
from pathlib import Path

from starflow.errors import UsageError

QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'})
SPACES = {"\u200b", "\u2060", "\ufeff"}  # of zero width; str.isspace knows all others
JOINERS = {"\u200c", "\u200d"}  # parts of words in some scripts, and of emoji


def normalize_prompt(text: str) -> str:
    """A prompt as a tokenizer should read it.

    Unicode NFC; white space of any kind and zero-width spaces become single spaces, without any at the ends; other
    invisible characters are removed; typographic quotes become plain ones.

    Raises:
        UsageError: the text contains bytes that are not UTF-8.
    """
    if any(unicodedata.category(character) == "Cs" for character in text):
        shown = text.encode(errors="replace").decode()
        raise UsageError(f"the prompt {shown!r} contains bytes that are not UTF-8 text")
    spaced = "".join(" " if character.isspace() or character in SPACES else character for character in text)
    visible = (c for c in spaced if c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf"))
    return " ".join(unicodedata.normalize("NFC", "".join(visible)).translate(QUOTES).split())


def read_prompt_lines(path: Path) -> list[tuple[int, str]]:
    """The prompts in a text file, one per line, each with the number of its line.

    Blank lines and lines that begin with # are skipped. The file is UTF-8, or UTF-16 with a byte-order mark. Lines end
    with LF, CRLF or CR; other separators, such as U+2028, are part of a prompt.

    Raises:
        UsageError: the file is not text, or has no prompts. OSError: it cannot be read.
    """
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    lines = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)
    prompts = [(number, line.strip()) for number, line in lines]
    prompts = [(number, line) for number, line in prompts if line and not line.startswith("#")]
    if not prompts:
        raise UsageError(f"{path} contains no prompts: write one per line")
    return prompts
