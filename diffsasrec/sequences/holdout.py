"""The holdout: what each user touches next after the split."""

from collections import Counter

import numpy as np
import numpy.typing as npt


def count_before(
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    cut: int,
    *,
    among: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """How many of each user's events lie before `cut`, [n]; `times` [events], `offsets` [n + 1].

    `among`: the events that count, [events]; None: all.
    """
    before = times < cut if among is None else (times < cut) & among
    running = np.r_[0, np.cumsum(before)]
    return (running[offsets[1:]] - running[offsets[:-1]]).astype(np.int32)


def next_items(
    items: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    *,
    split_time: int,
    known: npt.NDArray[np.bool_],
    num: int,
) -> npt.NDArray[np.int64]:
    """Each user's first `num` distinct known items after the split, [n, num]; -1 behind the end."""
    eligible = np.flatnonzero((times >= split_time) & known[items])
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
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Counter[str]]:
    """Each user's holdout: the first event after the split whose item is known before it.

    Args:
        items, times: the events of all users, in order; indices and microseconds.
        offsets: where each user's events start, [n + 1].
        known: whether an item occurs before the split, often enough, in anyone's history, [V].
        in_histories: the items that histories are made of, [V]; None: all. Who has none of them
            before the split has no holdout.

    Returns:
        num_before [n]; the holdout's position in the user's history, -1 without one, [n]; how many
        users have none, by reason.
    """
    num_users = len(offsets) - 1
    num_before = count_before(times, offsets, split_time)
    num_events = np.diff(offsets)
    eligible = np.flatnonzero((times >= split_time) & known[items])
    owner = np.searchsorted(offsets, eligible, side="right") - 1
    users, first = np.unique(owner, return_index=True)
    position = np.full(num_users, -1, np.int32)
    position[users] = eligible[first] - offsets[users]
    usable = num_before
    if in_histories is not None:
        usable = count_before(times, offsets, split_time, among=in_histories[items])
    new_user = usable == 0
    inactive = ~new_user & (num_events == num_before)
    only_new_items = ~new_user & ~inactive & (position < 0)
    position[new_user] = -1
    reasons = Counter(
        {
            "no_event_before_split": int(new_user.sum()),
            "no_event_after_split": int(inactive.sum()),
            "only_new_items_after_split": int(only_new_items.sum()),
        }
    )
    return num_before, position, reasons
