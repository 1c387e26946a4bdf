"""Whether the flow finds a clip's own caption: captions ranked by the likelihood of the clip.

Legend: `n` clips, `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from starflow.evaluation.clips import batches
from starflow.evaluation.metrics.likelihood import TOKENS_AT_ONCE
from starflow.evaluation.statistics import proportion
from starflow.likelihood.score import caption_fps, deep_log_likelihood, shallow_log_det
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite

NUM_CAPTIONS = 20

Meaning = Callable[[str], Hashable]  # equal for captions that say the same


def evaluate_retrieval(
    pipeline: StarFlowPipeline, noisy: Tensor, captions: Sequence[str], meaning: Meaning
) -> dict[str, Any] | None:
    """Rank the caption of each clip among `NUM_CAPTIONS` captions, or fewer if fewer have different meanings.

    Args:
        pipeline: the model.
        noisy: latents `(n, T, D, H, W)` at the model's noise level.
        captions: one for each clip.
        meaning: what a caption says.

    Returns:
        `num_clips`, `num_captions`, `top_1` (a proportion) and `chance`; None if all captions say the same.

    Raises:
        StarflowError: a likelihood is not finite.
    """
    meanings = [meaning(caption) for caption in captions]
    ranked = [candidates(meanings, index) for index in range(len(captions))]
    num_captions = len(ranked[0])
    if num_captions < 2:
        return None
    texts = pipeline.encode_prompt(captions, caption_fps(pipeline, noisy))
    is_first = [
        int(_log_likelihoods(pipeline, x, texts[chosen]).argmax()) == 0
        for x, chosen in zip(tqdm(noisy, desc="retrieval", unit="clip", disable=None), ranked, strict=True)
    ]
    return {
        "num_clips": len(noisy),
        "num_captions": num_captions,
        "top_1": proportion(is_first),
        "chance": 1 / num_captions,
    }


def candidates(meanings: Sequence[Hashable], index: int) -> list[int]:
    """The index itself, then the indices after it, in a circle, whose meanings have not occurred yet."""
    order = [*range(index, len(meanings)), *range(index)]
    first_places = {meanings[place]: place for place in reversed(order)}
    return sorted(first_places.values(), key=order.index)[:NUM_CAPTIONS]


def _log_likelihoods(pipeline: StarFlowPipeline, x: Tensor, texts: Tensor) -> Tensor:
    """Log-likelihood in nats of one clip `(T, D, H, W)` under each text, up to a constant.

    The constant is the part of the shallow blocks, which see no text.
    """
    u, _ = shallow_log_det(pipeline.flow, x[None])
    nats = [
        deep_log_likelihood(pipeline.flow, u.expand(len(text), -1, -1, -1, -1), text).flatten(1).sum(dim=1)
        for text in (texts[batch] for batch in batches(pipeline, len(texts), TOKENS_AT_ONCE))
    ]
    return require_finite(torch.cat(nats), "the likelihood")
