"""What the workers of a training tell each other."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed

T = TypeVar("T")


def from_rank_0(get: Callable[[], T], rank: int, world_size: int) -> T:
    """What `get` gives on rank 0, on every rank."""
    if world_size == 1:
        return get()
    box = [get() if rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return cast(T, box[0])
