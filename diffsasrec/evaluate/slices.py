"""Figures of parts of the holdout: users by their history, targets by how popular they are.

A mean over all users hides for whom the lists are bad. A part holds users, each with all targets or
with some of them; the value of a user is the mean over these targets.

Legend: n holdout users, T targets of all of them, V items.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.evaluate.metrics import Spread, gains, ranks_of
from diffsasrec.evaluate.versus import Versus, spread_of_differences
from diffsasrec.sequences.histories import Histories, UserItems
from diffsasrec.sequences.holdout import Holdout
from diffsasrec.times import DAY

Gains = npt.NDArray[np.float64]

EVENTS = "history_events"  # before the split, of known items
AGE = "days_since_last_event"  # at the split
POPULARITY = "target_place_percent"  # how many percent of the known items are more popular
# where the parts of each begin; the last has no end
STARTS: dict[str, tuple[int, ...]] = {
    EVENTS: (1, 3, 10, 50),
    AGE: (0, 1, 7, 30, 90),
    POPULARITY: (0, 1, 10, 50),
}


@dataclass(frozen=True)
class Slice:
    by: str  # a key of STARTS
    start: int
    stop: int | None  # exclusive; None: no end


def all_slices() -> list[Slice]:
    return [
        Slice(by, start, stop)
        for by, starts in STARTS.items()
        for start, stop in zip(starts, (*starts[1:], None), strict=True)
    ]


@dataclass(frozen=True)
class Part:
    """Of the users of a slice; those of several buckets are added."""

    model: Spread
    differences: Spread  # of the model and a counter

    def __add__(self, other: "Part") -> "Part":
        return Part(self.model + other.model, self.differences + other.differences)


def places_of(counts_V: npt.NDArray[np.int64]) -> Gains:
    """How many percent of the known items occur more often than each, before the split, [V]."""
    ordered = np.sort(counts_V[counts_V > 0])
    more_V = len(ordered) - np.searchsorted(ordered, counts_V, side="right")
    return 100.0 * more_V / max(len(ordered), 1)


def slice_parts(
    held: Holdout,
    lists: Mapping[str, npt.NDArray[np.int64]],
    *,
    cut: int,
    places_V: Gains,
    k: int,
) -> dict[Slice, Part]:
    """What NDCG@k the users of each slice have in some bucket; all slices are there.

    Args:
        lists: of the model and the counter, [n, K] each; -1 behind the end.
        places_V: `places_of` the items.
    """
    targets = held.targets
    owner, gain = targets.owners(), gains(k)[f"NDCG@{k}"]
    of_targets = {
        name: gain[ranks_of(rows[owner, :k], targets.items)] for name, rows in lists.items()
    }
    values_T = {
        EVENTS: held.past.lengths()[owner],
        AGE: _days_since_end(held.past, cut)[owner],
        POPULARITY: places_V[targets.items],
    }
    found = {}
    for each in all_slices():
        value = values_T[each.by]
        inside_T = (value >= each.start) & (value < (np.inf if each.stop is None else each.stop))
        model, counter = (
            _of_users(of_targets[name], inside_T, targets) for name in ("model", "counter")
        )
        found[each] = Part(Spread.of(model), spread_of_differences(model, counter))
    return found


def _of_users(gain_T: Gains, inside_T: npt.NDArray[np.bool_], targets: UserItems) -> Gains:
    """The mean over the targets inside, of the users who have some."""
    num_users = len(targets.offsets) - 1
    owner = targets.owners()[inside_T]
    size = np.bincount(owner, minlength=num_users)
    sums = np.bincount(owner, weights=gain_T[inside_T], minlength=num_users)
    return sums[size > 0] / size[size > 0]


def _days_since_end(past: Histories, cut: int) -> Gains:
    """Of histories that have an event."""
    return (cut - past.times[past.offsets[1:] - 1]) / DAY


def slices_json(
    parts: Mapping[Slice, Part], *, counter: str, metric: str, samples: int, seed: int
) -> list[dict[str, Any]]:
    """For metrics.json: the parts that have users, in the order of `STARTS`."""
    rows = []
    for each in all_slices():
        part = parts.get(each)
        if part is None or not part.model.num_users:
            continue
        drawn: dict[str, Any] = {"samples": samples, "seed": seed}
        versus = Versus.of(part.differences, counter=counter, metric=metric, **drawn)
        rows.append(
            {
                "by": each.by,
                "from": each.start,
                "to": each.stop,
                "n": part.model.num_users,
                metric: part.model.mean(),
                f"{metric}_ci": list(part.model.interval(**drawn)),
                "difference": versus.difference,
                "difference_ci": list(versus.interval),
            }
        )
    return rows
