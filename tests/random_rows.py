"""Random states, targets and item vectors for tests of the losses."""

import torch
from torch import Tensor

from diffsasrec.model.softmax import (
    Negatives,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(tensor: Tensor) -> Tensor:
    """Of a tensor that has one."""
    assert tensor.grad is not None
    return tensor.grad


def random_rows(num_rows: int, num_items: int, size: int, seed: int = 0) -> list[Tensor]:
    """States [R, D], targets [R] and item vectors [V, D]."""
    generator = seeded(seed)
    return [
        torch.randn(num_rows, size, generator=generator),
        torch.randint(num_items, (num_rows,), generator=generator),
        torch.randn(num_items, size, generator=generator),
    ]


def certain(*items: int) -> Negatives:
    """Negatives that are in every sample."""
    return Negatives(torch.tensor(items), torch.zeros(len(items)))
