"""Sequences -> training batches: which rows form which step, and what is masked in them.

Everything is a function of (seed, phase, epoch, step): the examples of a step and its masks are
drawn for the global batch, and each rank takes its rows of it. So two workers train on exactly what
one would, every rank takes the same number of steps, and no row is dropped.

An example is a stretch of one user's events with a boundary: the history before it, the slots (the
targets) behind it. Pretraining cuts histories into windows and draws the boundary near the end of
each; fine-tuning takes simulated batch times as boundaries.

Legend: B examples of the global batch, L history length, S slots.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.diffusion import MASK, forward_process, stratified_levels
from diffsasrec.model.features import end_ages
from diffsasrec.model.heads import own_pairs
from diffsasrec.model.objective import Batch
from diffsasrec.sequences.histories import stretches

Ints = npt.NDArray[np.int64]
DRAWN = -1  # the boundary of an example whose boundary is drawn anew in every epoch


@dataclass(frozen=True)
class Examples:
    """Examples of one bucket: stretches [start, end) of its flat events, [n] each."""

    start: Ints
    boundary: Ints  # absolute too, or DRAWN
    end: Ints
    first: Ints  # the user's first event
    query: Ints  # which batch time the boundary comes from, or DRAWN

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: Ints) -> "Examples":
        return Examples(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def shifted(self, by: int) -> "Examples":
        """The same examples where `by` other events come first."""
        boundary = np.where(self.boundary == DRAWN, DRAWN, self.boundary + by)
        return Examples(self.start + by, boundary, self.end + by, self.first + by, self.query)

    @staticmethod
    def concat(parts: list["Examples"]) -> "Examples":
        return Examples(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Examples)
            )
        )


@dataclass(frozen=True)
class Events:
    """The flat events that examples point into, [events] each."""

    items: npt.NDArray[np.int32]
    times: Ints
    gaps: Ints  # counters.event_gaps


def window_examples(
    offsets: Ints, num_events: Ints, *, max_seq_len: int, min_events: int
) -> Examples:
    """Cuts the first `num_events` of every user into windows, so that each is a target once.

    A window has at most max_seq_len + 1 events and shares its first with the window before it.
    Users with fewer than `min_events` events have none.
    """
    targets = np.where(num_events >= min_events, num_events - 1, 0)
    num_windows = -(-targets // max_seq_len)
    user = np.repeat(np.arange(len(num_windows)), num_windows)
    nth = np.arange(len(user)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    end = num_events[user] - nth * max_seq_len
    start = np.maximum(end - max_seq_len - 1, 0)
    first = offsets[:-1][user]
    drawn = np.full(len(user), DRAWN)
    return Examples(first + start, drawn, first + end, first, drawn)


def query_examples(
    times: Ints,
    offsets: Ints,
    num_events: Ints,
    *,
    query_times: Ints,
    max_seq_len: int,
    num_slots: int,
) -> Examples:
    """The deployed task inside the training part: a user as of each batch time T'.

    History: the events before T'. Targets: the user's first events at or after it, among the first
    `num_events`. A user who stays away over several batch times is an example at each: to be asked
    about people who were long away is part of the task.
    """
    first, limit = offsets[:-1], offsets[:-1] + num_events
    parts = []
    for query, query_time in enumerate(query_times):
        running = np.r_[0, np.cumsum(times < query_time)]
        boundary = first + running[offsets[1:]] - running[first]
        usable = (boundary > first) & (boundary < limit)
        part = Examples(
            start=np.maximum(boundary - max_seq_len, first),
            boundary=boundary,
            end=np.minimum(boundary + num_slots, limit),
            first=first,
            query=np.full(len(first), query),
        )
        parts.append(part.take(np.flatnonzero(usable)))
    return Examples.concat(parts)


def spread_query_times(time_quantiles: Ints, *, before: int, share: float, num: int) -> Ints:
    """`num` batch times, evenly spread over the last `share` of the events before `before`.

    Evenly by events, not by days: where a log was busy, more can be learned. `time_quantiles` are
    the times at evenly spaced quantiles of the log, 0 to 1.
    """
    grid = np.linspace(0.0, 1.0, len(time_quantiles))
    end = np.interp(before, time_quantiles.astype(np.float64), grid)
    places = end * (1.0 - share * np.arange(num, 0, -1) / num)
    times = np.interp(places, grid, time_quantiles.astype(np.float64)).astype(np.int64)
    return np.unique(np.minimum(times, before - 1))


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


def make_batch(
    events: Events,
    examples: Examples,
    *,
    query_times: Ints,
    model: ModelConfig,
    objective: ObjectiveConfig,
    generator: torch.Generator,
    rank: int,
    world_size: int,
) -> Batch:
    """Draws boundaries and masks for the global batch and builds the rows rank, rank + world, ...

    A rank without a row gets one that counts nothing. `query_times`: what `Examples.query` means.
    """
    items = events.items
    plan = _draw_plan(examples, model, objective, generator)
    rows = np.arange(rank, len(examples), world_size)
    counts = len(rows) > 0
    rows = rows if counts else np.zeros(1, np.int64)
    width = plan.width_L
    place_T = np.arange(plan.exists_BT.shape[1])
    first_event_B1 = (plan.boundary - plan.lengths)[rows, None]
    source_BT = np.where(
        place_T < width,
        first_event_B1 + place_T,
        plan.boundary[rows, None] + place_T - width,
    )
    masked_BT, scored_BL = plan.masked_BT[rows], plan.scored_BL[rows]
    targets_BT = torch.from_numpy(_take(items, source_BT, plan.exists_BT[rows]))
    inputs_BT = targets_BT.masked_fill(masked_BT, MASK)
    in_history_BL = plan.exists_BT[rows, :width]
    query = examples.query[rows]
    ages_B = pairs = None
    if (query != DRAWN).all():
        source, offsets = stretches(examples.first[rows], examples.boundary[rows])
        own = (events.items[source], events.times[source], offsets, query_times[query])
        ages_B = torch.from_numpy(end_ages(*own[1:]))
        pairs = own_pairs(*own)
    return Batch(
        history_BL=inputs_BT[:, :width],
        gaps_BL=torch.from_numpy(_take(events.gaps, source_BT[:, :width], in_history_BL)),
        ages_B=ages_B,
        queries_B=torch.from_numpy(query),
        pairs=pairs,
        lengths_B=torch.from_numpy(plan.lengths[rows]),
        slots_BS=inputs_BT[:, width:],
        num_slots_B=torch.from_numpy(plan.num_slots[rows]),
        targets_BT=targets_BT,
        next_BL=torch.from_numpy(_take(items, source_BT[:, :width] + 1, scored_BL)),
        scored_BL=torch.from_numpy(scored_BL & counts),
        masked_BT=masked_BT & counts,
        p_mask_BT=plan.p_mask_BT[rows],
        num_scored=int(plan.scored_BL.sum()),
        num_maskable=plan.num_maskable,
    )


def _take(values: npt.NDArray[Any], source: Ints, exists: npt.NDArray[np.bool_]) -> Ints:
    """values[source], 0 where nothing exists."""
    return np.where(exists, values[np.where(exists, source, 0)], 0).astype(np.int64)


@dataclass(frozen=True)
class _Plan:
    """What was drawn for a global batch: where its rows lie and what is masked in them."""

    boundary: Ints
    lengths: Ints  # of the history before it
    num_slots: Ints  # behind it
    width_L: int
    exists_BT: npt.NDArray[np.bool_]
    scored_BL: npt.NDArray[np.bool_]
    masked_BT: Tensor
    p_mask_BT: Tensor
    num_maskable: int


_NEXT, _RANDOM, _SUFFIX = 0, 1, 2  # mask patterns: one slot, the forward process, all slots


def _draw_plan(
    examples: Examples,
    model: ModelConfig,
    objective: ObjectiveConfig,
    generator: torch.Generator,
) -> _Plan:
    """Which loss: a diffusion model takes the next-item loss at every history position where the
    history is causal (prefix); where it is not, or in fine-tuning, a share of the examples has a
    single masked slot instead. The forward process reaches into a history only if that is not
    causal.
    """
    num = len(examples)
    pretraining = bool((examples.boundary == DRAWN).all())
    is_sasrec = model.kind == "sasrec"
    is_dense = is_sasrec or (model.attention == "prefix" and pretraining)
    draws = torch.rand((2, num), generator=generator).numpy()
    shares = np.cumsum(_pattern_shares(model, objective, is_dense=is_dense))
    pattern = np.searchsorted(shares[:-1] / shares[-1], draws[0], side="right")
    if pretraining:
        longest = np.minimum(examples.end - examples.start - 1, model.num_slots)
    else:
        longest = examples.end - examples.boundary
    num_slots = np.where(pattern == _RANDOM, longest, 1 + (draws[1] * longest).astype(np.int64))
    num_slots = np.where(pattern == _NEXT, 1, num_slots)
    boundary = examples.end - num_slots if pretraining else examples.boundary
    lengths = np.minimum(boundary - examples.start, model.max_seq_len)

    width = max(int(lengths.max(initial=1)), 1)
    place_T = np.arange(width + int(num_slots.max(initial=1)))
    in_history = place_T < lengths[:, None]
    in_slots = (place_T >= width) & (place_T < width + num_slots[:, None])
    is_random = (pattern == _RANDOM)[:, None]
    maskable = in_slots | (in_history & is_random & (model.attention == "bidirectional"))
    maskable = maskable & (not is_sasrec)
    levels_B = stratified_levels(num, generator)
    masked_BT, p_mask_BT = forward_process(torch.from_numpy(maskable), levels_B, generator)
    whole_BT = torch.from_numpy(maskable & ~is_random)
    scored = in_history[:, :width] & is_dense
    if not pretraining:
        scored = scored & (place_T[:width] == lengths[:, None] - 1)
    return _Plan(
        boundary=boundary,
        lengths=lengths,
        num_slots=num_slots,
        width_L=width,
        exists_BT=in_history | in_slots,
        scored_BL=scored,
        masked_BT=masked_BT | whole_BT,
        p_mask_BT=torch.where(whole_BT, 1.0, p_mask_BT),
        num_maskable=int(maskable.sum()),
    )


def _pattern_shares(
    model: ModelConfig, objective: ObjectiveConfig, *, is_dense: bool
) -> list[float]:
    if model.kind == "sasrec":
        return [1.0, 0.0, 0.0]
    next_item = 0.0 if is_dense else objective.next_item
    return [next_item, objective.random_mask, objective.suffix_mask]
