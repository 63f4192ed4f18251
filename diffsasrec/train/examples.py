"""What training learns from: windows of histories, and simulated batch times."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from diffsasrec.config.training import FinetuneConfig, ModelConfig
from diffsasrec.model.baskets import Baskets
from diffsasrec.model.features import event_gaps
from diffsasrec.sequences.histories import Flat, count_before, stretches
from diffsasrec.train.phases import Phase
from diffsasrec.typed_events import TypedEvents, concat

Ints = npt.NDArray[np.int64]
DRAWN = -1  # the boundary of an example whose boundary is drawn anew in every epoch


@dataclass(frozen=True)
class Examples:
    """Examples of one bucket: stretches [start, end) of its flat events, [n] each."""

    start: Ints
    boundary: Ints  # absolute too, or DRAWN
    end: Ints  # behind a given boundary: with as many slots as are between the two
    first: Ints  # the user's first event
    query: Ints  # which batch time the boundary comes from, or DRAWN
    basket_end: Ints  # of the events at the time of the one at the boundary, absolute, or DRAWN

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: Ints) -> "Examples":
        return Examples(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def shifted(self, by: int) -> "Examples":
        """The same examples after `by` other events."""
        is_drawn = self.boundary == DRAWN
        return Examples(
            start=self.start + by,
            boundary=np.where(is_drawn, DRAWN, self.boundary + by),
            end=self.end + by,
            first=self.first + by,
            query=self.query,
            basket_end=np.where(is_drawn, DRAWN, self.basket_end + by),
        )

    @staticmethod
    def concat(parts: list["Examples"]) -> "Examples":
        return Examples(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Examples)
            )
        )


@dataclass(frozen=True)
class Part:
    """What a rank has of a global batch: some of its examples, and the rows that they are."""

    examples: Examples  # one or more
    rows: Ints  # [n]
    num_rows: int  # of the global batch
    counts: bool = True  # False: the rank has none of it, and one example only keeps it going

    @classmethod
    def of(cls, examples: Examples, mine: Ints, *, rows: Ints, num_rows: int) -> "Part":
        """Those of some examples, one or more, that are `mine`: perhaps none."""
        if not len(mine):
            first = np.zeros(1, np.int64)
            return cls(examples.take(first), first, num_rows, counts=False)
        return cls(examples.take(mine), rows, num_rows)

    @classmethod
    def whole(cls, examples: Examples) -> "Part":
        """What a rank has that is alone."""
        return cls(examples, np.arange(len(examples)), len(examples))


@dataclass(frozen=True)
class Events:
    """The flat events that examples point into, [events] each."""

    items: npt.NDArray[np.int32]
    times: Ints
    gaps: Ints  # features.event_gaps
    types: TypedEvents | None = None  # of a log with types

    @classmethod
    def of(cls, flats: list[Flat]) -> "Events":
        """Those of some buckets one after another."""
        return cls(
            np.concatenate([flat.items for flat in flats]),
            np.concatenate([flat.times for flat in flats]),
            np.concatenate([event_gaps(flat.times, flat.offsets) for flat in flats]),
            concat([flat.types for flat in flats]),
        )

    @cached_property
    def targets(self) -> "Targets":
        return Targets.of(len(self.items), self.types)


@dataclass(frozen=True)
class Targets:
    """Which of some flat events lists predict: those of the target types, or all."""

    places: Ints  # of the targets, ascending
    num_before: Ints  # how many targets lie before each place, [events + 1]

    @classmethod
    def of(cls, num_events: int, types: TypedEvents | None) -> "Targets":
        if types is None:
            return cls(np.arange(num_events), np.arange(num_events + 1))
        are_targets = types.are_targets()
        return cls(np.flatnonzero(are_targets), np.r_[0, np.cumsum(are_targets)])

    def after(self, places: Ints, nth: Ints | int = 0) -> Ints:
        """Where the nth target at or after each place lies; undefined where there is none."""
        found = np.clip(self.num_before[places] + nth, 0, max(len(self.places) - 1, 0))
        return self.places[found] if len(self.places) else np.zeros_like(found)


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
    return Examples(first + start, drawn, first + end, first, drawn, drawn)


def query_examples(
    times: Ints,
    offsets: Ints,
    num_events: Ints,
    *,
    query_times: Ints,
    max_seq_len: int,
    num_slots: int,
    types: TypedEvents | None = None,
) -> Examples:
    """The deployed task inside the training part: a user as of each batch time T'.

    History: the events before T'. Targets: the user's first events at or after it, among the first
    `num_events`; of a log with types, the first ones of target types. A user without events over
    several batch times is an example at each: lists for people who were away for long are part of
    the task.
    """
    first, limit = offsets[:-1], offsets[:-1] + num_events
    basket_ends, targets = _basket_ends(times, offsets), Targets.of(len(times), types)
    parts = []
    for query, query_time in enumerate(query_times):
        running = np.r_[0, np.cumsum(times < query_time)]
        boundary = first + running[offsets[1:]] - running[first]
        num_left = targets.num_before[limit] - targets.num_before[boundary]
        usable = (boundary > first) & (num_left > 0)
        part = Examples(
            start=np.maximum(boundary - max_seq_len, first),
            boundary=boundary,
            end=boundary + np.minimum(num_left, num_slots),
            first=first,
            query=np.full(len(first), query),
            basket_end=basket_ends[targets.after(boundary)],
        )
        parts.append(part.take(np.flatnonzero(usable)))
    return Examples.concat(parts)


def next_baskets(events: Events, examples: Examples) -> Baskets:
    """What the user of each example has at the moment of its first target, with query times."""
    targets, bounds = events.targets, (examples.boundary, examples.basket_end)
    nth, offsets = stretches(*(targets.num_before[bound] for bound in bounds))
    source = targets.places[nth]
    users = np.repeat(np.arange(len(examples)), np.diff(offsets))
    keys = np.unique(users * np.int64(2**32) + events.items[source])
    return Baskets(*(torch.from_numpy(part) for part in np.divmod(keys, 2**32)))


def _basket_ends(times: Ints, offsets: Ints) -> Ints:
    """Where the events end that a user has at the time of each, [events + 1]; the last is none."""
    starts = np.ones(len(times) + 1, bool)
    starts[1:-1] = times[1:] != times[:-1]
    starts[offsets] = True
    places = np.flatnonzero(starts)
    return np.r_[places, len(times)][np.cumsum(starts)]


def spread_query_times(time_quantiles: Ints, *, before: int, share: float, num: int) -> Ints:
    """`num` batch times, evenly spread over the last `share` of the events before `before`.

    Evenly by events, not by days: busy times of a log teach more. `time_quantiles` are the times at
    evenly spaced quantiles of the log, 0 to 1.
    """
    grid = np.linspace(0.0, 1.0, len(time_quantiles))
    end = np.interp(before, time_quantiles.astype(np.float64), grid)
    places = end * (1.0 - share * np.arange(num, 0, -1) / num)
    times = np.interp(places, grid, time_quantiles.astype(np.float64)).astype(np.int64)
    return np.unique(np.minimum(times, before - 1))


def trained_counts(
    flat: Flat, phase: Phase, *, min_events: int, num_items: int
) -> npt.NDArray[np.int64]:
    """How often each item occurs in what a phase may train on, [V]."""
    num_events = count_before(flat.times, flat.offsets, phase.trained_before)
    long_enough = np.repeat(num_events >= min_events, np.diff(flat.offsets))
    used = (flat.times < phase.trained_before) & long_enough
    return np.bincount(flat.items[used], minlength=num_items)


def batch_times(phase: Phase, time_quantiles: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The simulated batch times of a phase; none if it trains on windows."""
    settings = phase.settings
    if not isinstance(settings, FinetuneConfig):
        return np.zeros(0, np.int64)
    return spread_query_times(
        np.array(time_quantiles, np.int64),
        before=phase.trained_before,
        share=settings.query_share,
        num=settings.query_times,
    )


def bucket_examples(
    flat: Flat,
    phase: Phase,
    model: ModelConfig,
    *,
    query_times: npt.NDArray[np.int64],
    min_events: int,
) -> Examples:
    """The examples of one bucket in one phase."""
    num_events = count_before(flat.times, flat.offsets, phase.trained_before).astype(np.int64)
    settings = phase.settings
    if not isinstance(settings, FinetuneConfig):
        return window_examples(
            flat.offsets, num_events, max_seq_len=model.max_seq_len, min_events=min_events
        )
    return query_examples(
        flat.times,
        flat.offsets,
        np.where(num_events >= min_events, num_events, 0),
        query_times=query_times,
        max_seq_len=model.max_seq_len,
        num_slots=model.num_slots if model.kind == "diffusion" else 1,
        types=flat.types,
    )
