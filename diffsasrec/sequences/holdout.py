"""The holdout: what each user touches next after the split.

It is all known items of the first moment after the split that has any. Those of one moment are one
basket, and nothing in a log says which of them comes first.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffsasrec.sequences.histories import Histories, UserItems, count_before


def next_items(
    items: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    *,
    split_time: int,
    known: npt.NDArray[np.bool_],
    num: int,
    targets: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int64]:
    """Each user's first `num` distinct known items after the split, [n, num]; -1 behind the end.

    `targets`: the events that count, [events]; None: all.
    """
    among = known[items] if targets is None else known[items] & targets
    eligible = np.flatnonzero((times >= split_time) & among)
    owner = np.searchsorted(offsets, eligible, side="right") - 1
    # the first time of each (user, item), in time order again
    pairs = np.unique(owner * np.int64(len(known)) + items[eligible], return_index=True)[1]
    first = np.sort(pairs)
    owner, chosen = owner[first], items[eligible[first]]
    starts = np.searchsorted(owner, np.arange(len(offsets) - 1))
    place = np.arange(len(owner)) - starts[owner]
    result = np.full((len(offsets) - 1, num), -1, np.int64)
    inside = place < num
    result[owner[inside], place[inside]] = chosen[inside]
    return result


def find_holdout(
    items: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    *,
    split_time: int,
    known: npt.NDArray[np.bool_],
    in_histories: npt.NDArray[np.bool_] | None = None,
    targets: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Counter[str]]:
    """Where each user's holdout is: at the first event after the split with a known item.

    Args:
        items, times, offsets: as of Histories.
        known: whether an item occurs before the split, often enough, in anyone's history, [V].
        in_histories: the items that histories are made of, [V]; None: all. Who has none of them
            before the split has no holdout.
        targets: whether an event is of a type that lists predict, [events]; None: all are.

    Returns:
        num_before [n]; the position of that event in the user's history, -1 without one, [n]; how
        many users have none, by reason.
    """
    num_before = count_before(times, offsets, split_time)
    eligible = (times >= split_time) & known[items]
    position = _first_eligible(offsets, eligible if targets is None else eligible & targets)
    usable = num_before
    if in_histories is not None:
        usable = count_before(times, offsets, split_time, among=in_histories[items])
    new_user = usable == 0
    inactive = ~new_user & (np.diff(offsets) == num_before)
    rest = ~new_user & ~inactive & (position < 0)
    position[new_user] = -1
    reasons = {"no_event_before_split": new_user, "no_event_after_split": inactive}
    if targets is not None:
        has_target = _first_eligible(offsets, (times >= split_time) & targets) >= 0
        reasons["no_target_after_split"] = rest & ~has_target
        rest &= has_target
    reasons["only_new_items_after_split"] = rest
    return num_before, position, Counter({name: int(of.sum()) for name, of in reasons.items()})


def _first_eligible(
    offsets: npt.NDArray[np.int64], eligible: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """The position of each user's first eligible event, [n]; -1 without one."""
    places = np.flatnonzero(eligible)
    owner = np.searchsorted(offsets, places, side="right") - 1
    users, first = np.unique(owner, return_index=True)
    position = np.full(len(offsets) - 1, -1, np.int32)
    position[users] = places[first] - offsets[users]
    return position


def held_out(
    histories: Histories,
    position: npt.NDArray[np.int32],
    known: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """The events of all holdouts, in order: those of known items at the moment of `position`.

    Args:
        position: as of `find_holdout`, [n].
        known: [V].
    """
    (users,) = np.nonzero(position >= 0)
    first = histories.offsets[users] + position[users]
    moment = np.full(len(position), np.iinfo(np.int64).min)
    moment[users] = histories.times[first]
    at_once = histories.times == np.repeat(moment, histories.lengths())
    held = np.flatnonzero(at_once & known[histories.items] & histories.are_targets())
    if histories.types is None:
        return held
    # an item may have events of several types at one time
    pairs = histories.owners()[held] * np.int64(len(known)) + histories.items[held]
    return np.sort(held[np.unique(pairs, return_index=True)[1]])


@dataclass(frozen=True)
class Holdout:
    """Users with a holdout: their place, their histories before the cut, the items behind it."""

    users: npt.NDArray[np.int64]
    past: Histories
    targets: UserItems


def holdout_between(
    histories: Histories, *, cut: int, before: int | None, known: npt.NDArray[np.bool_]
) -> Holdout:
    """The users with a known item in [cut, before), or at any time after the cut.

    Args:
        cut, before: microseconds.
        known: whether an item is known before the cut, [V].
    """
    seen = histories if before is None else histories.before(before)
    num_before, position, _ = find_holdout(
        seen.items,
        seen.times,
        seen.offsets,
        split_time=cut,
        known=known,
        targets=None if seen.types is None else seen.are_targets(),
    )
    users = np.flatnonzero(position >= 0)
    return Holdout(users, seen.first(num_before).of_users(users), targets_of(seen, position, known))


def targets_of(
    histories: Histories, position: npt.NDArray[np.int32], known: npt.NDArray[np.bool_]
) -> UserItems:
    """The holdout items of the users that have some; arguments as of `held_out`."""
    held = held_out(histories, position, known)
    owner = np.searchsorted(histories.offsets, held, side="right") - 1
    size = np.bincount(owner, minlength=len(position))[position >= 0]
    return UserItems(histories.items[held].astype(np.int64), np.r_[0, np.cumsum(size)])
