from pathlib import Path

import numpy as np
import pytest
import torch

from starflow.encoders.text import load_text_encoder, tiny_text_encoder
from starflow.toyworld.teaching.readings import ASPECTS
from starflow.toyworld.teaching.text import (
    PADDING,
    Reader,
    TextTrainConfig,
    build_tokenizer,
    lesson,
    token_accuracy,
    train_text,
)
from starflow.train.config import LoopConfig, OptimizerConfig, TextModelConfig

WIDTH = 32


@pytest.fixture(autouse=True)
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starflow.toyworld.teaching.text.TOKENIZER_TEXTS", 1000)


def tiny_config(folder: Path, **loop: int) -> TextTrainConfig:
    return TextTrainConfig(
        output=str(folder / "run"),
        batch_size=32,
        text=TextModelConfig(400, width=WIDTH, num_layers=2),
        optimizer=OptimizerConfig(lr=1e-2),
        loop=LoopConfig(**({"num_steps": 3, "decay_steps": 1, "warmup_steps": 1, "bf16": False} | loop)),
    )


def test_every_token_is_labelled_with_what_it_is_about():
    tokenizer = build_tokenizer(400, 0)
    texts = lesson(tokenizer, np.random.default_rng(2), "train", 64, torch.device("cpu"))
    color = list(ASPECTS).index("color")
    names = list(ASPECTS["color"])
    seen = 0
    for ids, mask, labels in zip(*texts, strict=True):
        assert (labels[mask == 0] == PADDING).all()
        assert (labels[mask == 1] != PADDING).all()
        text = tokenizer.decode(ids[mask == 1])
        for token, label in zip(ids[mask == 1], labels[mask == 1], strict=True):
            word = tokenizer.decode(token).strip()
            if word in names and "(v2v)" not in text:  # where it may be the new color
                assert names[int(label[color]) - 1] == word
                seen += 1
    assert seen > 20


def test_a_token_counts_if_all_its_aspects_are_predicted():
    tokenizer = build_tokenizer(400, 0)
    reader = Reader(tiny_text_encoder(len(tokenizer), WIDTH, 1)).eval()
    torch.nn.init.zeros_(reader.head.weight)
    torch.nn.init.zeros_(reader.head.bias)
    assert token_accuracy(reader, tokenizer) == 0  # every text says something
    reader.head.bias.data[:] = torch.randn(len(reader.head.bias))
    assert token_accuracy(reader, tokenizer) < 0.1


def test_training_makes_an_encoder_whose_tokens_tell_which_object_they_are_about(tmp_path: Path):
    losses = []
    for steps in (1, 60):
        config = tiny_config(tmp_path / str(steps), num_steps=steps)
        folder = train_text(config)
        tokenizer, encoder = load_text_encoder(str(folder))
        losses.append(_best_linear_guess(encoder, tokenizer))
    assert losses[1] < 0.7 * losses[0]


def _best_linear_guess(encoder, tokenizer) -> float:
    """How well a word tells whether it is about the first object or the second: the residual of least squares."""
    texts = lesson(tokenizer, np.random.default_rng(1), "train", 200, torch.device("cpu"))
    with torch.no_grad():
        encoding = encoder(input_ids=texts.input_ids, attention_mask=texts.attention_mask).last_hidden_state
    words = texts.attention_mask > 0
    x = torch.cat([encoding[words], torch.ones(int(words.sum()), 1)], dim=1)
    y = torch.nn.functional.one_hot(texts.labels[words][:, list(ASPECTS).index("order")]).float()
    return (x @ torch.linalg.lstsq(x, y).solution - y).square().mean().item()


def test_training_resumes_exactly(tmp_path: Path):
    whole = train_text(tiny_config(tmp_path / "whole", num_steps=4, checkpoint_every=2))
    config = tiny_config(tmp_path / "parts", num_steps=2, checkpoint_every=2)
    config.loop.decay_steps = 0
    train_text(config)
    parts = train_text(tiny_config(tmp_path / "parts", num_steps=4, checkpoint_every=2), resume=True)
    one, two = (load_text_encoder(str(folder))[1].state_dict() for folder in (whole, parts))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
