"""Which examples form which step of an epoch, on how many workers ever."""

import hashlib
from collections.abc import Iterator

import numpy as np

from diffsasrec.train.examples import Ints


def suited_batch_size(num_examples: int) -> int:
    """A power of two from 32 to 1024 that leaves 256 steps or more to an epoch of a large log.

    Small logs learn far more from many small steps: on a million film ratings two epochs in batches
    of 32 do what six in batches of 128 do.
    """
    return 2 ** min(max(int(np.log2(max(num_examples, 1) / 256)), 5), 10)


def suited_num_negatives(num_candidates: int, *, at_batch_times: bool) -> int:
    """How many negatives the softmax takes of a catalogue; 0: all items.

    Windows score a hundred states a sequence, batch times a few: a full softmax is affordable up to
    catalogues of another size.
    """
    limit, some = (100_000, 8192) if at_batch_times else (5_000, 1024)
    return some if num_candidates > limit else 0


def stream_seed(*parts: object) -> int:
    """A seed from (seed, phase, step, ...): no generator state has to be kept."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def epoch_groups(
    num_examples: Ints, *, seed: int, phase: str, epoch: int, buckets_in_memory: int
) -> list[Ints]:
    """The buckets that are read together, in the order of this epoch; empty ones left out."""
    rng = np.random.default_rng(stream_seed(seed, phase, "buckets", epoch))
    order = rng.permutation(len(num_examples))
    order = order[num_examples[order] > 0]
    return [order[i : i + buckets_in_memory] for i in range(0, len(order), buckets_in_memory)]


def epoch_steps(groups: list[Ints], num_examples: Ints, *, batch_size: int) -> int:
    return sum(-(-int(num_examples[group].sum()) // batch_size) for group in groups)


def group_batches(
    num: int, *, batch_size: int, seed: int, phase: str, at: tuple[int, int]
) -> Iterator[Ints]:
    """The shuffled examples 0..num-1 of a group in batches; `at` is (epoch, group)."""
    rng = np.random.default_rng(stream_seed(seed, phase, "examples", at))
    order = rng.permutation(num)
    for start in range(0, num, batch_size):
        yield order[start : start + batch_size]
