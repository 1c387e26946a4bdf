"""How much memory Python objects take, as counted by `tracemalloc`."""

import tracemalloc
from collections.abc import Callable


def bytes_per_item(bytes_kept: Callable[[int], int]) -> float:
    """The bytes that each of 2,000 more items takes. `bytes_kept` makes a number of items, and says what they keep."""
    bytes_kept(10)  # imports and caches
    tracemalloc.start()
    try:
        few, many = bytes_kept(100), bytes_kept(2100)
    finally:
        tracemalloc.stop()
    return (many - few) / 2000
