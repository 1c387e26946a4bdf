"""Whether the flow tells which caption is a clip's own: captions ranked by the clip's likelihood under each.

Legend: `T` latent frames, `H W` latent rows and columns, `D` latent channels.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor
from tqdm import tqdm

from starflow.evaluation.statistics import proportion
from starflow.likelihood.score import deep_log_likelihood, shallow_log_det
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite
from starflow.toyworld.world.captions import parse

NUM_CAPTIONS = 20


def evaluate_retrieval(pipeline: StarFlowPipeline, noisy: Tensor, captions: Sequence[str]) -> dict[str, Any] | None:
    """Rank for each clip its own caption among `NUM_CAPTIONS`, or as many as say different things.

    Args:
        pipeline: the model.
        noisy: latents `(n, T, D, H, W)` at the model's noise level.
        captions: one for each.

    Returns:
        `num_clips`, `num_captions`, `top_1` (a proportion) and `chance`; None if there is nothing to choose from.

    Raises:
        StarflowError: a likelihood is not finite.
    """
    said = [_objects_said(caption) for caption in captions]
    ranked = [candidates(said, index) for index in range(len(captions))]
    num_captions = len(ranked[0])
    if num_captions < 2:
        return None
    texts = pipeline.encode_prompt(captions, pipeline.config.fps)
    is_first = []
    for x, chosen in zip(tqdm(noisy, desc="retrieval", unit="clip", disable=None), ranked, strict=True):
        # The shallow blocks see no text, so their part is the same for every caption.
        u, _ = shallow_log_det(pipeline.flow, x[None])
        nats = deep_log_likelihood(pipeline.flow, u.expand(num_captions, -1, -1, -1, -1), texts[chosen])
        nats = require_finite(nats.flatten(1).sum(dim=1), "the likelihood")
        is_first.append(int(nats.argmax()) == 0)
    return {
        "num_clips": len(noisy),
        "num_captions": num_captions,
        "top_1": proportion(is_first),
        "chance": 1 / num_captions,
    }


def candidates(said: Sequence[Hashable], index: int) -> list[int]:
    """Place `index`, then the next ones, round in a circle, that say what none before them does."""
    order = [*range(index, len(said)), *range(index)]
    first_places = {said[place]: place for place in reversed(order)}
    return sorted(first_places.values(), key=order.index)[:NUM_CAPTIONS]


def _objects_said(caption: str) -> tuple[Any, ...]:
    """Color, shape and motion of each object; sizes and the background are said of some clips only."""
    return tuple(sorted((item.color, item.shape, item.motion) for item in parse(caption).objects))
