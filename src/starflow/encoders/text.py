"""Conditioning text: the template around a caption, its encoding by a T5 encoder, and the small T5 of toy models.

The released models use google/flan-t5-xl; `encode_text` works with any tokenizer and `T5EncoderModel` of transformers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from starflow.encoders.vocabulary import KEY, words_of
from starflow.errors import UsageError
from starflow.media.prompts import normalize_prompt
from starflow.media.sizes import nearest_aspect_ratio

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1 and 2, as in T5
EXTEND, VIDEO_TO_VIDEO, LAST = "(extend) ", "(v2v) ", "(last) "  # task markers, which stand before a caption
T5_EMBEDDINGS = ("shared", "embed_tokens", "relative_attention_bias")  # parts of a T5 encoder


def wrap_caption(
    caption: str, *, fps: float | None = None, noise_std: float | None = None, aspect_ratio: str | None = None
) -> str:
    r"""Normalize a caption and put it into the template of training. Conditions that are None are left out.

    The unconditional branch of guidance uses the same template with the empty caption. A task marker, such as
    `VIDEO_TO_VIDEO`, is part of the caption.

    Args:
        caption: describes the video.
        fps: frames per second; 0 for an image.
        noise_std: the noise level of the latents.
        aspect_ratio: width to height, as in "16:9".

    Returns:
        For instance "Noise Level 500:\nA video with 16 fps:\na corgi\n\n in a 16:9 aspect ratio.\n", as released.
    """
    text = normalize_prompt(caption)
    if fps is not None:
        kind = f"A video with {fps:g} fps" if fps > 0 else "An image"
        text = f"{kind}:\n{text}\n"
    if noise_std is not None:
        text = f"Noise Level {int(noise_std * 1000)}:\n{text}"
    if aspect_ratio is not None:
        text = f"{text}\n in a {aspect_ratio} aspect ratio.\n"
    return text


class CaptionSettings(Protocol):
    """The settings of a model that `wrap_captions` reads. A pipeline's config has them."""

    noise_std: float
    height: int
    width: int
    caption_has_fps: bool
    caption_has_noise_level: bool
    caption_has_aspect_ratio: bool


def wrap_captions(
    captions: Sequence[str], settings: CaptionSettings, fps: float, size: tuple[int, int] | None = None
) -> list[str]:
    """Wrap captions with the conditions that a model's settings name, in training and in the pipeline.

    `fps` is 0 for an image; `size` is height and width of the video, by default the model's.
    """
    height, width = size or (settings.height, settings.width)
    conditions: dict[str, Any] = {
        "fps": fps if settings.caption_has_fps else None,
        "noise_std": settings.noise_std if settings.caption_has_noise_level else None,
        "aspect_ratio": nearest_aspect_ratio(width, height) if settings.caption_has_aspect_ratio else None,
    }
    return [wrap_caption(caption, **conditions) for caption in captions]


def cut_off(tokenizer: PreTrainedTokenizerBase, wrapped: str, max_length: int) -> str:
    """The end of a wrapped caption that `encode_text` cuts off; empty if the caption fits."""
    offsets = tokenizer(wrapped, return_offsets_mapping=True).offset_mapping
    if len(offsets) <= max_length:
        return ""
    start, _ = offsets[max_length - 1]  # the last token that is kept marks the end of the text
    return wrapped[start:].strip().partition("\n")[0]


def encode_text(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, captions: Sequence[str], max_length: int
) -> Tensor:
    """Encode wrapped captions, padded and truncated to `max_length` tokens. Gradients reach the encoder.

    Returns:
        (B, M, width) with M = `max_length`, in the encoder's dtype and on its device; zero at padding.
    """
    tokens = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=max_length, return_tensors="pt"
    ).to(get_module_execution_device(text_encoder))
    encodings = text_encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    return torch.where(tokens.attention_mask[..., None] > 0, encodings, 0)


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a small tokenizer from wrapped captions. Frequent words are one token; rare words are several.

    This is byte-level byte-pair encoding in lower case. Any text can be encoded, and spaces and line ends are kept. An
    end token is added. The words of the captions are stored with it. The same captions give the same tokenizer.

    Args:
        captions: the texts to learn from, in their template.
        vocab_size: the largest number of tokens; 3 of them are special tokens, and 256 are single bytes.
    """
    captions = list(captions)
    tokenizer = Tokenizer(models.BPE())
    # A space is added at the start of each line, so that a word there has the same token as elsewhere.
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Prepend(" "), normalizers.Replace("\n", "\n ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", left=1, right=0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        **{KEY: sorted(words_of(captions))},
    )


def tiny_text_encoder(vocab_size: int, width: int = 128, layers: int = 2, heads: int = 4) -> T5EncoderModel:
    """A T5 encoder with random weights, small enough to train together with a toy flow.

    It has the architecture of flan-t5 (gated GELU), without dropout.
    """
    config = T5Config(
        vocab_size=vocab_size,
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


def load_text_encoder(folder: str) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """The tokenizer and the text encoder in the folders `tokenizer` and `text_encoder` of `folder`.

    Raises UsageError if the folder has no text encoder.
    """
    if not Path(folder, "text_encoder", "config.json").is_file():
        raise UsageError(f"no text encoder at {folder}: train it first, with `starflow train text`")
    encoder = T5EncoderModel.from_pretrained(Path(folder, "text_encoder"))
    return PreTrainedTokenizerFast.from_pretrained(Path(folder, "tokenizer")), encoder
