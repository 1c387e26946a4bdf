"""Small networks that read true frames, trained in a minute on one core."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

NUM_STEPS = 1200
BATCH_SIZE = 32
LEARNING_RATE = 3e-3


def fit(network: nn.Module, loss: Callable[[NDArray[np.intp]], Tensor], num_rows: int, description: str) -> None:
    """Train a network on random batches, the same ones each time.

    Args:
        network: is in evaluation mode afterwards.
        loss: of the rows with some numbers.
        num_rows: of the training set.
        description: for the progress bar.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=NUM_STEPS)
    rng = np.random.default_rng(0)
    network.train()
    for _ in tqdm(range(NUM_STEPS), desc=description, unit="batch", disable=None):
        optimizer.zero_grad()
        loss(rng.integers(num_rows, size=BATCH_SIZE)).backward()
        optimizer.step()
        schedule.step()
    network.eval()


def convolution(channels: int, new_channels: int, stride: int = 1) -> nn.Module:
    """A convolution with normalization and activation."""
    return nn.Sequential(
        nn.Conv2d(channels, new_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(new_channels),
        nn.ReLU(),
    )
