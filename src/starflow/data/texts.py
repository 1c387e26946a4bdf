"""A cache of the encodings of texts on disk, so that a frozen text encoder encodes each text once.

A cache is a folder of shards, `texts-*.safetensors`, usually that of the latents. They hold the encodings `(m, width)`
of the `m` tokens of each text, without padding, in the precision of the encoder. The name is a digest of the tokens.
Encodings by another text encoder are stale: they stay, and are not used.

Legend: `B` batch, `M` text tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from starflow.data.disk_list import DiskList
from starflow.data.shards import (
    DIGEST,
    Digests,
    digest_of,
    mapped_shard,
    open_shard,
    wait_for_all,
    weights_digest,
    write_shard,
)
from starflow.errors import StarflowError

Item = TypeVar("Item")

FORMAT = 1  # version of the files
KIND = "texts"
TEXTS_PER_SHARD = 1024
TEXTS_AT_ONCE = 32  # that the encoder takes


class TextCache:
    """The encodings of texts by a frozen text encoder."""

    def __init__(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, encoder: T5EncoderModel, max_tokens: int
    ) -> None:
        """
        Args:
            folder: of the cache.
            tokenizer: of the encoder.
            encoder: on its device.
            max_tokens: `M`; longer texts are cut off.

        Raises StarflowError if a shard is damaged.
        """
        self.folder, self.tokenizer, self.encoder, self.max_tokens = folder, tokenizer, encoder, max_tokens
        settings = {"precision": str(encoder.dtype), "heads": encoder.config.num_heads}
        encoder_digest = weights_digest(settings, encoder.state_dict().items())
        self._made_with = {"format": FORMAT, "text_encoder": encoder_digest}
        self._read_shards()

    def _read_shards(self) -> None:
        self.num_stale = 0
        self._paths: list[Path] = []
        names = [np.empty(0, DIGEST)]
        for path in sorted(self.folder.glob(f"{KIND}-*.safetensors")):
            file, about = open_shard(path)
            if about["made_with"] == self._made_with:
                self._paths.append(path)
                names.append(np.array(file.keys(), DIGEST))
            else:
                self.num_stale += len(file.keys())
        self._names = Digests(np.concatenate(names))
        self._ends = np.cumsum([len(each) for each in names[1:]])  # of the names of each shard

    def fill(self, texts: Iterable[str], *, rank: int = 0, world_size: int = 1, show_progress: bool = True) -> None:
        """Encode the texts that the cache lacks. It can be interrupted, and goes on where it was.

        Of several processes, joined by `torch.distributed`, each encodes its share and waits for the others.

        Raises StarflowError if a shard cannot be written, or an encoding is not finite.
        """
        tokens = DiskList((ids for some in _parts(texts, TEXTS_PER_SHARD) for ids in self._tokens(some)), list)
        names, places = np.unique(np.fromiter(map(_name, tokens), DIGEST, len(tokens)), return_index=True)
        # A share depends on all texts: the others may have begun to fill the folder.
        is_mine = np.arange(len(names)) // TEXTS_PER_SHARD % world_size == rank
        missing = places[is_mine & (self._names.find(names) < 0)]
        if rank == 0 and len(missing) and self.num_stale:
            tqdm.write(f"{self.folder} has {self.num_stale} texts that another text encoder encoded: they are not used")
        with tqdm(
            total=len(missing), desc="encoding texts", unit="text", disable=not (show_progress and len(missing))
        ) as progress:
            for some in _parts(missing, TEXTS_PER_SHARD):
                encoded = self._encode([tokens[place] for place in some])
                write_shard(self.folder, KIND, encoded, self._about(list(encoded)))
                progress.update(len(some))
        wait_for_all(world_size)
        self._read_shards()

    def read(self, texts: Sequence[str]) -> Tensor:
        """The encodings `(B, M, width)` of texts, zero at padding, as `encode_text` gives them."""
        names = [_name(ids) for ids in self._tokens(texts)]
        shards = np.searchsorted(self._ends, self._names.find(np.array(names, DIGEST)), side="right")
        tensors = [mapped_shard(self._paths[shard]).get_tensor(name) for name, shard in zip(names, shards, strict=True)]
        encoded = pad_sequence(tensors, batch_first=True)
        return torch.nn.functional.pad(encoded, (0, 0, 0, self.max_tokens - encoded.shape[1]))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens).input_ids

    def _about(self, names: Sequence[str]) -> dict[str, object]:
        return {"made_with": self._made_with, "first": names[0], "number": len(names)}

    @torch.no_grad()
    def _encode(self, tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The encodings of some texts, by name. Texts of about the same length are encoded together."""
        encoded: dict[str, Tensor] = {}
        for some in _parts(sorted(tokens, key=len), TEXTS_AT_ONCE):
            ids = pad_sequence([torch.tensor(each) for each in some], batch_first=True).to(self.encoder.device)
            lengths = torch.tensor([len(each) for each in some], device=ids.device)
            is_text = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            states = self.encoder(input_ids=ids, attention_mask=is_text.long()).last_hidden_state
            if not states.isfinite().all():
                raise StarflowError("the text encoder gives values that are not finite: try another precision")
            encoded |= {_name(each): row[: len(each)].cpu().clone() for each, row in zip(some, states, strict=True)}
        return encoded


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def _name(tokens: Sequence[int]) -> str:
    """A digest of the tokens of a text."""
    return digest_of(np.asarray(tokens, dtype=np.int64).tobytes())
