"""The words of the captions that a small model was trained on, stored with its tokenizer.

A model with a large text encoder, such as flan-t5, stores none: it knows words that its captions lacked.
"""

import re
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

KEY = "caption_words"  # in tokenizer_config.json
WORD = re.compile(r"[^\W_]+")


def words_of(texts: Iterable[str]) -> set[str]:
    """The words of texts, in lower case."""
    return {word for text in texts for word in WORD.findall(text.lower())}


def add_words(tokenizer: PreTrainedTokenizerBase, captions: Iterable[str]) -> None:
    """Add the words of captions to those that a tokenizer stores; a tokenizer that stores none stays so."""
    if known := tokenizer.init_kwargs.get(KEY):
        tokenizer.init_kwargs[KEY] = sorted({*known, *words_of(captions)})


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The words of a text that no caption had, in order; empty if the tokenizer stores no words."""
    known = set(tokenizer.init_kwargs.get(KEY, ()))
    return [word for word in dict.fromkeys(WORD.findall(text.lower())) if word not in known] if known else []
