from pathlib import Path

from transformers import AutoTokenizer

from starflow.encoders.text import train_tokenizer
from starflow.encoders.vocabulary import KEY, add_words, unknown_words, words_of


def test_words_are_in_lower_case_without_punctuation():
    assert words_of(["A red_circle: moves!", "über 愛"]) == {"a", "red", "circle", "moves", "über", "愛"}


def test_a_tokenizer_stores_the_words_of_its_captions(tmp_path: Path):
    train_tokenizer(["a red circle"], 300).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert unknown_words(tokenizer, "A piano, a RED piano on a circle") == ["piano", "on"]
    add_words(tokenizer, ["a piano"])
    assert unknown_words(tokenizer, "a piano on a circle") == ["on"]


def test_a_tokenizer_without_words_knows_all(tmp_path: Path):
    tokenizer = train_tokenizer(["a red circle"], 300)
    del tokenizer.init_kwargs[KEY]
    add_words(tokenizer, ["a piano"])
    assert KEY not in tokenizer.init_kwargs
    assert unknown_words(tokenizer, "anything") == []
