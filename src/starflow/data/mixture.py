"""Several sources of clips as one, with weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starflow.data.clip import Clip, ClipSource, Share, SharedSource, left_out
from starflow.errors import UsageError


def clip_weights(source: ClipSource, counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """How often an excerpt of each clip is drawn, relative to others. `counts` has the number of each clip's excerpts.

    All weights are 1 unless the source has shares.
    """
    if not isinstance(source, SharedSource):
        return np.ones(len(counts))
    weights = [
        share.clip_weight(int(counts[share.indices.start : share.indices.stop].sum())) for share in source.shares
    ]
    return np.repeat(weights, [len(share.indices) for share in source.shares])


@dataclass(frozen=True)
class SourceMixture:
    """The clips of several sources, one source after the other.

    Args:
        sources: each a mapping as in `data` of a config, and with it either `weight`, the share of the source, or
            `repeats`, how often each of its clips counts (default 1). Weights are relative to each other.

    Raises UsageError if a source is wrong, or some sources have weights and others do not.
    """

    sources: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.sources or not all(isinstance(config, Mapping) for config in self.sources):
            raise UsageError("a mixture needs data.sources, a list of sources")
        has_weight = ["weight" in config for config in self.sources]
        if any(has_weight) and not all(has_weight):
            raise UsageError("give every source of the mixture a weight, or none")
        for config in self.sources:
            for name in ("weight", "repeats"):
                value = config.get(name, 1)
                if not isinstance(value, int | float) or not 0 < value < float("inf"):
                    raise UsageError(f"{name} of a source must be a number above 0, not {value!r}")
        if any(has_weight) and any("repeats" in config for config in self.sources):
            raise UsageError("give the sources of the mixture weights or repeats, not both")
        assert len(self)  # builds the sources, which raises UsageError

    @cached_property
    def _built(self) -> list[ClipSource]:
        from starflow.data.sources import build_source  # which knows this class by its name

        names = ("weight", "repeats")
        return [
            build_source({name: value for name, value in config.items() if name not in names})
            for config in self.sources
        ]

    @cached_property
    def shares(self) -> list[Share]:
        """See `SharedSource`."""
        shares: list[Share] = []
        start = 0
        for config, source in zip(self.sources, self._built, strict=True):
            indices = range(start, start + len(source))
            shares.append(Share(indices, config.get("weight"), config.get("repeats", 1.0)))
            start = indices.stop
        return shares

    @property
    def fingerprint(self) -> str:
        """The fingerprints of the sources."""
        return ", ".join(source.fingerprint for source in self._built)

    @property
    def left_out(self) -> list[str]:
        """What the sources leave out."""
        return [line for source in self._built for line in left_out(source)]

    def __len__(self) -> int:
        return self.shares[-1].indices.stop

    def __getitem__(self, index: int) -> Clip:
        source, own_index = self.locate(index)
        return source[own_index]

    def locate(self, index: int) -> tuple[ClipSource, int]:
        """See `SharedSource`."""
        for share, source in zip(self.shares, self._built, strict=True):
            if index in share.indices:
                return source, index - share.indices.start
        raise IndexError(index)
