"""What the workers of a training tell each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """One worker of `world_size`; the process group exists when there are several."""

    device: torch.device
    rank: int
    world_size: int

    def from_rank_0(self, get: Callable[[], T]) -> T:
        """What `get` gives on rank 0, on every rank."""
        if self.world_size == 1:
            return get()
        box = [get() if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def wait_for_all(self) -> None:
        """Returns when every rank has come here."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def sum(self, values: list[float]) -> list[float]:
        """The sum of each of the values over all ranks, on all of them."""
        return sum_over_ranks(values, device=self.device, world_size=self.world_size)


def sum_over_ranks(values: list[float], *, device: torch.device, world_size: int) -> list[float]:
    """The sum of each of the values over all ranks, on all of them."""
    if world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return [float(value) for value in tensor]
