import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5EncoderModel

from starflow.encoders.text import (
    encode_text,
    load_text_encoder,
    tiny_text_encoder,
    train_tokenizer,
    wrap_caption,
    wrap_captions,
)
from starflow.errors import UsageError
from starflow.toyworld.world.captions import caption as toy_caption
from starflow.toyworld.world.scene import scene_at

UNSEEN = [
    "a crimson dodecahedron pirouettes",
    "",
    "  two  spaces\tand\n\nlines ",
    "красный круг",
    "\n a\n\n  b \n ",
    "🐕 corgi!",
    "\x00\x7f",
]


SETTINGS = {"noise_std": 0.5, "height": 480, "width": 848}


def toy_captions(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [wrap_caption(toy_caption(scene_at(0, i, "train"), rng, "train"), fps=8) for i in range(count)]


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return toy_captions(3000)


@pytest.fixture(scope="module")
def tokenizer(captions):
    return train_tokenizer(captions, vocab_size=768)


@pytest.mark.parametrize(
    ("has", "text"),
    [
        ({}, "a corgi"),
        ({"fps"}, "A video with 16 fps:\na corgi\n"),
        ({"noise_level"}, "Noise Level 500:\na corgi"),
        ({"aspect_ratio"}, "a corgi\n in a 16:9 aspect ratio.\n"),
    ],
)
def test_captions_get_the_conditions_that_a_model_was_trained_with(has: set[str], text: str):
    names = ("fps", "noise_level", "aspect_ratio")
    settings = SimpleNamespace(**SETTINGS, **{f"caption_has_{name}": name in has for name in names})
    assert wrap_captions(["a corgi", "a corgi"], settings, 16) == [text, text]
    (square,) = wrap_captions(["a corgi"], settings, 0, size=(64, 64))
    assert square == text.replace("A video with 16 fps", "An image").replace("16:9", "1:1")


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ({}, "a corgi"),
        ({"fps": 16}, "A video with 16 fps:\na corgi\n"),
        ({"fps": 16.0}, "A video with 16 fps:\na corgi\n"),
        ({"fps": 12.5}, "A video with 12.5 fps:\na corgi\n"),
        ({"fps": 0}, "An image:\na corgi\n"),
        ({"noise_std": 0.3}, "Noise Level 300:\na corgi"),
        ({"aspect_ratio": "1:1"}, "a corgi\n in a 1:1 aspect ratio.\n"),
        ({"fps": 0, "noise_std": 0.5}, "Noise Level 500:\nAn image:\na corgi\n"),
        (
            {"fps": 16, "noise_std": 0.5, "aspect_ratio": "16:9"},
            "Noise Level 500:\nA video with 16 fps:\na corgi\n\n in a 16:9 aspect ratio.\n",
        ),
    ],
)
def test_wrapping_is_the_released_template(conditions, text):
    assert wrap_caption("a corgi", **conditions) == text


def test_empty_caption_has_the_same_wrapping():
    assert wrap_caption("") == ""
    assert wrap_caption("", fps=8, noise_std=0.3) == "Noise Level 300:\nA video with 8 fps:\n\n"


def test_tokenizer_makes_a_token_of_every_word_it_knows(tokenizer, captions):
    assert len(tokenizer) <= 768
    for text in captions[:200]:
        words_marks_and_line_ends = re.findall(r"[a-z]+|[0-9]+|[^a-z0-9 ]", text.lower())
        assert len(tokenizer(text).input_ids) == len(words_marks_and_line_ends) + 1, text
    assert max(len(tokenizer(text).input_ids) for text in captions) <= 40


@pytest.mark.parametrize("text", [*UNSEEN, "a red circle moves right"])
def test_any_text_survives_and_ends_with_eos(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.unk_token_id == 2
    assert 2 not in ids
    assert tokenizer.decode(ids[:-1]) == text.lower()


def test_a_word_is_the_same_token_in_any_case_and_place(tokenizer):
    assert tokenizer("A Red CIRCLE").input_ids == tokenizer("a red circle").input_ids
    (red, _), (_, red_later, _) = tokenizer("red").input_ids, tokenizer("a red").input_ids
    (*_, red_in_new_line, _) = tokenizer("fps:\nred").input_ids
    assert red == red_later == red_in_new_line


def test_tokenizer_is_deterministic_and_loads_back(tokenizer, captions, tmp_path):
    again = train_tokenizer(iter(captions), vocab_size=768)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.pad_token_id == 0
    for text in [*UNSEEN, *captions[:50]]:
        assert loaded(text).input_ids == tokenizer(text).input_ids


def test_encoding_is_padded_with_zeros_and_truncated(tokenizer):
    encoder = tiny_text_encoder(len(tokenizer), width=32, layers=1, heads=2).eval()
    texts = ["a red circle moves right", "", "circle " * 50]
    encodings = encode_text(tokenizer, encoder, texts, max_length=12)
    assert encodings.shape == (3, 12, 32)
    lengths = [min(12, len(tokenizer(text).input_ids)) for text in texts]
    assert lengths[1:] == [1, 12]
    for row, length in zip(encodings, lengths, strict=True):
        assert (row[:length].abs().sum(-1) > 0).all()
        assert (row[length:] == 0).all()


def test_padding_and_company_do_not_change_a_caption(tokenizer):
    encoder = tiny_text_encoder(len(tokenizer), width=32, layers=2, heads=2).eval().double()
    text = "a red circle moves right"
    ids = torch.tensor([tokenizer(text).input_ids])
    alone = encoder(input_ids=ids).last_hidden_state[0]
    batched = encode_text(tokenizer, encoder, ["a", text, "circle " * 50], max_length=20)[1]
    assert batched.dtype == torch.float64
    torch.testing.assert_close(batched[: len(alone)], alone)


def test_gradients_reach_the_encoder(tokenizer):
    encoder = tiny_text_encoder(len(tokenizer), width=32, layers=1, heads=2)
    encode_text(tokenizer, encoder, ["a red circle"], max_length=8).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_tiny_encoder_saves_and_loads(tokenizer, tmp_path):
    encoder = tiny_text_encoder(len(tokenizer)).eval()
    assert encoder.config.d_model == 128
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1_000_000
    encoder.save_pretrained(tmp_path)
    loaded = T5EncoderModel.from_pretrained(tmp_path, local_files_only=True).eval()
    expected = encode_text(tokenizer, encoder, ["a blue square"], max_length=10)
    torch.testing.assert_close(encode_text(tokenizer, loaded, ["a blue square"], max_length=10), expected)


def test_a_trained_encoder_loads_with_its_tokenizer(tokenizer, tmp_path):
    with pytest.raises(UsageError, match=r"no text encoder at .*: train it first"):
        load_text_encoder(str(tmp_path))
    encoder = tiny_text_encoder(len(tokenizer), width=16, layers=1)
    encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded_tokenizer, loaded = load_text_encoder(str(tmp_path))
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    assert loaded_tokenizer.get_vocab() == tokenizer.get_vocab()
