from pathlib import Path

import pytest
import torch
from transformers import T5EncoderModel

from starflow.data import texts as module
from starflow.data.shards import open_shard
from starflow.data.texts import TextCache
from starflow.encoders.text import encode_text, tiny_text_encoder, train_tokenizer
from starflow.errors import StarflowError

TEXTS = ["a cat", "a very long text about a cat " * 5, "", "кошка 猫 🐈", "a dog and a cat"]
MAX_TOKENS = 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def encoder(tokenizer) -> T5EncoderModel:
    torch.manual_seed(0)
    return tiny_text_encoder(len(tokenizer), 16, layers=1).eval()


@pytest.fixture
def cache(tmp_path: Path, tokenizer, encoder: T5EncoderModel) -> TextCache:
    return TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS)


def num_encoded(monkeypatch: pytest.MonkeyPatch, encoder: T5EncoderModel) -> list[int]:
    """The number of texts of each call of the encoder from now on."""
    numbers: list[int] = []
    forward = type(encoder).forward

    def counted(self: T5EncoderModel, input_ids: torch.Tensor, **more: torch.Tensor):
        numbers.append(len(input_ids))
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(type(encoder), "forward", counted)
    return numbers


def test_cached_encodings_are_those_of_the_encoder(cache: TextCache, tokenizer, encoder: T5EncoderModel):
    cache.fill(TEXTS, show_progress=False)
    asked = [TEXTS[index] for index in (3, 1, 1, 2)]
    with torch.no_grad():
        wanted = encode_text(tokenizer, encoder, asked, MAX_TOKENS)
    got = cache.read(asked)
    assert got.shape == (4, MAX_TOKENS, 16) and got.dtype == wanted.dtype
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(got == 0, wanted == 0)  # padding


def test_a_text_is_stored_without_padding(cache: TextCache, tmp_path: Path, tokenizer):
    cache.fill(TEXTS, show_progress=False)
    (shard,) = tmp_path.glob("texts-*.safetensors")
    file, _ = open_shard(shard)
    lengths = sorted(len(ids) for ids in tokenizer(TEXTS, truncation=True, max_length=MAX_TOKENS).input_ids)
    assert sorted(file.get_tensor(name).shape[0] for name in file.keys()) == lengths  # noqa: SIM118
    assert lengths[0] < lengths[-1] == MAX_TOKENS


def test_only_new_texts_are_encoded(
    tmp_path: Path, tokenizer, encoder: T5EncoderModel, monkeypatch: pytest.MonkeyPatch
):
    numbers = num_encoded(monkeypatch, encoder)
    for texts, wanted in ((TEXTS[:3], [3]), (TEXTS[:3], []), (TEXTS, [2])):
        numbers.clear()
        TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS).fill(texts, show_progress=False)
        assert numbers == wanted


def test_encodings_of_another_encoder_are_stale(
    tmp_path: Path, cache: TextCache, tokenizer, encoder: T5EncoderModel, capsys: pytest.CaptureFixture[str]
):
    cache.fill(TEXTS, show_progress=False)
    torch.manual_seed(1)
    other = tiny_text_encoder(len(tokenizer), 16, layers=1).eval()
    changed = TextCache(tmp_path, tokenizer, other, MAX_TOKENS)
    changed.fill(TEXTS, show_progress=False)
    assert f"{tmp_path} has 5 texts that another text encoder encoded: they are not used" in capsys.readouterr().out
    assert not torch.allclose(changed.read(TEXTS), cache.read(TEXTS))
    again = TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS)  # the first encodings are still there
    assert torch.equal(again.read(TEXTS), cache.read(TEXTS))


def test_ranks_share_the_texts_and_an_interrupted_run_goes_on(
    tmp_path: Path, tokenizer, encoder: T5EncoderModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "TEXTS_PER_SHARD", 2)
    monkeypatch.setattr(module, "wait_for_all", lambda _: None)
    numbers = num_encoded(monkeypatch, encoder)
    for rank, wanted in ((1, [2]), (0, [2, 1]), (0, [])):
        numbers.clear()
        TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS).fill(TEXTS, rank=rank, world_size=2, show_progress=False)
        assert numbers == wanted
    assert len(TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS).read(TEXTS)) == 5


def test_values_that_are_not_finite_are_an_error(tmp_path: Path, tokenizer):
    encoder = tiny_text_encoder(len(tokenizer), 16, layers=1).eval()
    encoder.shared.weight.data.fill_(float("nan"))
    with pytest.raises(StarflowError, match="not finite"):
        TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS).fill(TEXTS, show_progress=False)
    assert not list(tmp_path.iterdir())


def test_a_damaged_shard_is_named(tmp_path: Path, cache: TextCache, tokenizer, encoder: T5EncoderModel):
    cache.fill(TEXTS, show_progress=False)
    (shard,) = tmp_path.glob("texts-*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StarflowError, match=rf"{shard.name} is damaged"):
        TextCache(tmp_path, tokenizer, encoder, MAX_TOKENS)
