"""Training the small text encoder of toyworld separately, before the flow: `starflow train text`.

A flow teaches its text encoder only what changes the likelihood much. Which of two motions belongs to which object
changes it by a few of a clip's thousands of nats. The T5 of the released models has learned such relations from text.
This training does the same for toyworld's captions. From the encoding of each word, a linear layer must predict
everything that the text says about the object of the word. In "a red circle moves right", it must predict from the
encoding of "moves" that the object is a red circle, and that it moves right. The linear layer is used only in training.

Legend: B batch, M text tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5EncoderModel

from starflow.config import MISSING, save_config
from starflow.encoders.text import (
    EXTEND,
    LAST,
    T5_EMBEDDINGS,
    VIDEO_TO_VIDEO,
    tiny_text_encoder,
    train_tokenizer,
    wrap_caption,
)
from starflow.media.files import atomic_write
from starflow.toyworld.teaching.readings import ASPECTS, Reading, sample_reading
from starflow.toyworld.world.scene import Split
from starflow.toyworld.world.vocabulary import FPS
from starflow.train.config import LoopConfig, OptimizerConfig, ParallelConfig, TextModelConfig
from starflow.train.loop import autocast, resume_or_start, seed_everything, train
from starflow.train.processes import is_main, training_processes
from starflow.train.state import Trained, create_state

MARKERS = {"clip": ("", "", EXTEND, LAST), "image": ("",), "edit": (VIDEO_TO_VIDEO,)}
TOKENIZER_TEXTS = 20_000
TEST_SEED = 1_000_003
NUM_TEST_TEXTS = 1000
PADDING = -100  # label of padding, which the cross-entropy ignores


@dataclass
class TextTrainConfig:
    """The keys of `starflow train text`."""

    output: str = MISSING
    batch_size: int = 128  # of a micro step
    text: TextModelConfig = field(default_factory=TextModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


class Reader(nn.Module):
    """A text encoder, and a linear layer that predicts each aspect of a token's object from the encoding."""

    def __init__(self, encoder: T5EncoderModel):
        super().__init__()
        self.encoder = encoder
        self.sizes = [1 + len(names) for names in ASPECTS.values()]
        self.head = nn.Linear(encoder.config.d_model, sum(self.sizes))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Tokens (B, M) → logits (B, M, 1 + names) for each aspect; index 0 means that the text does not say it."""
        encoding = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return list(self.head(encoding).float().split(self.sizes, dim=-1))


class Lesson(NamedTuple):
    """Tokens and mask (B, M), and labels (B, M, aspects): 0 if the text does not say it, `PADDING` for padding."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def lesson(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, split: Split, size: int, device: torch.device
) -> Lesson:
    """A batch of random texts in their template, padded to the longest, with the labels of each token."""
    readings = [sample_reading(rng, split) for _ in range(size)]
    texts = [wrap(reading, rng) for reading in readings]
    tokens = tokenizer(texts, padding=True, return_tensors="pt", return_offsets_mapping=True)
    stops = tokens.offset_mapping[..., 1].contiguous()
    labels = torch.full((*tokens.input_ids.shape, len(ASPECTS)), PADDING)
    for row, (reading, text) in enumerate(zip(readings, texts, strict=True)):
        ends = torch.tensor([part.end for part in reading.parts]) + text.index(reading.text)
        about = torch.bucketize(stops[row], ends).clamp(max=len(ends) - 1)
        said = torch.tensor([_indices(part.says) for part in reading.parts])
        labels[row] = torch.where(tokens.attention_mask[row, :, None] > 0, said[about], PADDING)
    return Lesson(tokens.input_ids.to(device), tokens.attention_mask.to(device), labels.to(device))


def _indices(says: dict[str, str]) -> list[int]:
    return [1 + names.index(says[aspect]) if aspect in says else 0 for aspect, names in ASPECTS.items()]


def wrap(reading: Reading, rng: np.random.Generator) -> str:
    """The text of a reading in the template, with the marker of a random task of its kind."""
    markers = MARKERS[reading.kind]
    return wrap_caption(markers[rng.integers(len(markers))] + reading.text, fps=0 if reading.kind == "image" else FPS)


class TextStep:
    """A training step: the cross-entropy of the aspects of each token."""

    def __init__(self, reader: Reader, tokenizer: PreTrainedTokenizerBase, config: TextTrainConfig):
        self.reader, self.tokenizer, self.config = reader, tokenizer, config

    def __call__(self, step: int, micro_step: int, scale: float) -> dict[str, float]:
        """Add the gradients of `scale` times the cross-entropy; see `starflow.train.loop.TrainingStep`."""
        rng = np.random.default_rng([self.config.loop.seed, step, micro_step])
        texts = lesson(self.tokenizer, rng, "train", self.config.batch_size, self.reader.head.weight.device)
        with autocast(self.config.loop):
            guesses = self.reader(texts.input_ids, texts.attention_mask)
        loss = sum(
            F.cross_entropy(guess.flatten(0, 1), labels.flatten(), ignore_index=PADDING)
            for guess, labels in zip(guesses, texts.labels.unbind(-1), strict=True)
        )
        assert isinstance(loss, Tensor)
        (scale * loss).backward()
        return {"loss": loss.item(), "clips": float(len(texts.labels))}


@torch.no_grad()
def token_accuracy(reader: Reader, tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of the tokens of texts of the test split for which every aspect is predicted correctly."""
    texts = lesson(tokenizer, np.random.default_rng(TEST_SEED), "test", NUM_TEST_TEXTS, reader.head.weight.device)
    guesses = reader(texts.input_ids, texts.attention_mask)
    right = torch.stack([guess.argmax(-1) for guess in guesses], dim=-1) == texts.labels
    return right.all(dim=-1)[texts.attention_mask > 0].float().mean().item()


def build_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer for texts in their template, including the empty caption."""
    rng = np.random.default_rng([seed, TOKENIZER_TEXTS])
    empty = [wrap_caption("", fps=FPS), wrap_caption("", fps=0)]
    texts = (wrap(sample_reading(rng, "train"), rng) for _ in range(TOKENIZER_TEXTS))
    return train_tokenizer((*empty, *texts), vocab_size)


def train_text(config: TextTrainConfig, *, resume: bool = False) -> Path:
    """Train as the config says. Returns `output`/final, with the folders `text_encoder` and `tokenizer`.

    Raises:
        UsageError, StarflowError, KeyboardInterrupt: as in `starflow.train.loop`.
    """
    with training_processes(config.loop.device):
        return _train_text(config, resume)


def _train_text(config: TextTrainConfig, resume: bool) -> Path:
    output = Path(config.output)
    seed_everything(config.loop.seed)
    tokenizer = build_tokenizer(config.text.vocab_size, config.loop.seed)
    encoder = tiny_text_encoder(len(tokenizer), config.text.width, config.text.num_layers)
    reader = Reader(encoder)
    state = create_state({"reader": Trained(reader, config.optimizer, T5_EMBEDDINGS)}, config.loop, config.parallel)
    resume_or_start(state, output, resume)
    if is_main():
        with atomic_write(output / "config.yaml") as temporary:
            save_config(config, temporary)

    def preview(modules: Mapping[str, nn.Module], writer: SummaryWriter, step: int) -> None:
        writer.add_scalar("token_accuracy", token_accuracy(cast(Reader, modules["reader"]), tokenizer), step)

    train(state, TextStep(reader, tokenizer, config), config.loop, output, preview)
    averaged = state.averaged()
    if is_main():
        with atomic_write(output / "final") as temporary:
            cast(Reader, averaged["reader"]).encoder.save_pretrained(temporary / "text_encoder")
            tokenizer.save_pretrained(temporary / "tokenizer")
    return output / "final"
