"""Which part of the input of a training each of its workers has, and what they tell each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed

T = TypeVar("T")

AT_ONCE = 2**22  # numbers that are summed over the ranks together


@dataclass(frozen=True)
class Worker:
    """One worker of `world_size`; the process group exists when there are several."""

    device: torch.device
    rank: int
    world_size: int

    def part_of(self, num: int) -> range:
        """The part of this rank of `num` things: neighbours, as many as the others have, or one
        more or less.
        """
        return range(self.rank * num // self.world_size, (self.rank + 1) * num // self.world_size)

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

    def add_up(self, values: npt.NDArray[Any]) -> None:
        """Puts the sums over all ranks into a contiguous array, on all of them."""
        if self.world_size == 1:
            return
        wide = np.float64 if values.dtype.kind == "f" else np.int64  # torch sums no unsigned ones
        flat_N = values.reshape(-1)
        for start in range(0, len(flat_N), AT_ONCE):
            some_N = flat_N[start : start + AT_ONCE]
            sums_N = torch.from_numpy(some_N.astype(wide)).to(self.device)
            torch.distributed.all_reduce(sums_N)
            some_N[:] = sums_N.cpu().numpy()


def sum_over_ranks(values: list[float], *, device: torch.device, world_size: int) -> list[float]:
    """The sum of each of the values over all ranks, on all of them."""
    if world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return [float(value) for value in tensor]


@dataclass(frozen=True)
class Share:
    """What a rank reads of a group of buckets.

    The examples of the group lie one after another, bucket by bucket, each at its place.
    """

    # the buckets that it reads, by their number in the group, and which of their examples are its
    # own; of some buckets perhaps none, but it reads one bucket or more
    parts: list[tuple[int, slice]]
    places: range  # of its examples in the group


def share_of(num_examples: npt.NDArray[np.int64], *, rank: int, world_size: int) -> Share:
    """The share of a rank: an equal part of the buckets, and so whole files if there are enough.

    Args:
        num_examples: of each bucket of the group, one or more.
    """
    num, starts = len(num_examples), np.r_[0, np.cumsum(num_examples)].tolist()

    def begin(rank: int) -> int:
        bucket, part = divmod(rank * num, world_size)
        inside = part * int(num_examples[bucket]) // world_size if part else 0
        return int(starts[bucket]) + inside

    places = range(begin(rank), begin(rank + 1))
    buckets = range(rank * num // world_size, -(-(rank + 1) * num // world_size))
    own = (slice(max(places.start - starts[b], 0), places.stop - starts[b]) for b in buckets)
    return Share(list(zip(buckets, own, strict=True)), places)


def places_of_step(places: range, *, step: int, num_steps: int) -> npt.NDArray[np.int64]:
    """Those of some places of a group that one of its steps takes: every `num_steps`-th of all.

    So each bucket of the group gives each step the same part of its examples, but for rounding.
    Place p is row p // num_steps of the global batch.
    """
    first = places.start + (step - places.start) % num_steps
    return np.arange(first, places.stop, num_steps)
