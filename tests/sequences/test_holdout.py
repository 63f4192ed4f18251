"""Before and after the split: the holdout of each user, and the items that follow."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.sequences.histories import Histories, count_before
from diffsasrec.sequences.holdout import find_holdout, holdout_between, next_items

# --- before and after ---


def test_an_event_exactly_at_the_split_time_is_after_it():
    times, offsets = np.array([9, 10, 11, 10]), np.array([0, 3, 4])
    assert count_before(times, offsets, 10).tolist() == [1, 0]


def test_users_without_events_have_none_before():
    assert count_before(np.array([1, 2]), np.array([0, 0, 2, 2]), 10).tolist() == [0, 2, 0]
    assert count_before(np.zeros(0, np.int64), np.array([0]), 10).tolist() == []


def find(histories, *, known, split_time=10):
    """`histories`: per user a list of (item, time); `known`: items that occur before the split."""
    events = [event for history in histories for event in history]
    items = np.array([item for item, _ in events], np.int32)
    times = np.array([time for _, time in events], np.int64)
    offsets = np.cumsum([0, *map(len, histories)])
    is_known = np.isin(np.arange(10), known)
    num_before, position, reasons = find_holdout(
        items, times, offsets, split_time=split_time, known=is_known
    )
    return num_before.tolist(), position.tolist(), dict(reasons)


def test_the_holdout_is_the_first_event_after_whose_item_is_known():
    num_before, position, reasons = find([[(1, 5), (7, 10), (2, 11), (1, 12)]], known=[1, 2])
    assert (num_before, position) == ([1], [2])
    assert sum(reasons.values()) == 0


def test_an_event_exactly_at_the_split_can_be_the_holdout():
    assert find([[(1, 9), (1, 10)]], known=[1])[:2] == ([1], [1])


def test_an_item_known_only_from_others_counts():
    assert find([[(1, 5)], [(2, 5), (1, 15)]], known=[1, 2])[1] == [-1, 1]


def test_users_without_a_holdout_are_counted_by_reason():
    newcomer, inactive, explorer, held = (
        [(1, 15)],
        [(1, 5)],
        [(1, 5), (8, 15)],
        [(1, 5), (1, 15)],
    )
    histories = [newcomer, inactive, explorer, held, []]
    num_before, position, reasons = find(histories, known=[1])
    assert num_before == [0, 1, 1, 1, 0]
    assert position == [-1, -1, -1, 1, -1]
    assert reasons == {
        "no_event_before_split": 2,
        "no_event_after_split": 1,
        "only_new_items_after_split": 1,
    }


def test_empty_histories_around_a_user_do_not_move_its_holdout():
    history = [(1, 5), (1, 15)]
    assert find([[], history, [], [], history, []], known=[1])[1] == [-1, 1, -1, -1, 1, -1]


def test_no_users_have_no_holdouts():
    assert find([], known=[]) == (
        [],
        [],
        {
            "no_event_before_split": 0,
            "no_event_after_split": 0,
            "only_new_items_after_split": 0,
        },
    )


# --- the next items ---


def following(histories, *, known, num=3, split_time=10):
    """The next items of users with events (item, time)."""
    events = [event for history in histories for event in history]
    return next_items(
        np.array([item for item, _ in events], np.int32),
        np.array([time for _, time in events], np.int64),
        np.cumsum([0, *map(len, histories)]),
        split_time=split_time,
        known=np.isin(np.arange(10), known),
        num=num,
    ).tolist()


def test_the_next_items_are_the_first_distinct_known_ones_from_the_split_on():
    history = [(1, 5), (7, 10), (2, 10), (1, 11), (2, 12), (3, 13), (4, 14)]
    assert following([history], known=[1, 2, 3, 4]) == [[2, 1, 3]]


def test_the_held_out_items_are_the_known_ones_of_the_first_moment_with_any():
    histories = history_of(
        [(1, 5), (7, 10), (2, 11), (9, 11), (1, 11), (2, 12)],  # 7 and 9 are not known
        [(1, 5)],
        [(2, 5), (3, 11)],
    )
    known = np.isin(np.arange(10), [1, 2, 3])
    held = holdout_between(histories, cut=10, before=None, known=known)
    assert held.users.tolist() == [0, 2]
    assert held.past.items.tolist() == [1, 2]
    assert held.targets.items.tolist() == [2, 1, 3] and held.targets.offsets.tolist() == [0, 2, 3]
    assert held.targets.items.tolist() == [
        item
        for user in (0, 2)
        for item in first_basket(histories.of_users(np.array([user])), known)
    ]


def history_of(*histories) -> Histories:
    events = [event for history in histories for event in history]
    return Histories(
        np.array([item for item, _ in events], np.int32),
        np.array([time for _, time in events], np.int64),
        np.cumsum([0, *map(len, histories)]),
    )


def first_basket(history: Histories, known) -> list[int]:
    """One event after the other."""
    events = zip(history.items.tolist(), history.times.tolist(), strict=True)
    later = [(item, time) for item, time in events if time >= 10 and known[item]]
    return [item for item, time in later if time == later[0][1]]


def test_the_first_of_the_next_items_is_in_the_holdout():
    history = [(1, 5), (9, 10), (3, 12), (1, 13)]
    known = np.isin(np.arange(10), [1, 3])
    items, times = np.array([i for i, _ in history], np.int32), np.array([t for _, t in history])
    offsets = np.array([0, 4])
    _, position, _ = find_holdout(items, times, offsets, split_time=10, known=known)
    assert following([history], known=[1, 3]) == [[items[position[0]], 1, -1]]


def test_users_without_anything_after_the_split_have_no_next_items():
    histories = [[(1, 5)], [], [(1, 15)], [(8, 15)], []]
    none = [-1, -1, -1]
    assert following(histories, known=[1]) == [none, none, [1, -1, -1], none, none]
    assert following([], known=[1]) == []


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=8).map(
            lambda history: sorted(history, key=lambda event: event[1])
        ),
        max_size=5,
    ),
    st.sets(st.integers(0, 9)),
    st.integers(1, 4),
)
def test_the_next_items_equal_a_loop_over_events(histories, known, num):
    expected = []
    for history in histories:
        found: list[int] = []
        for item, time in history:
            if time >= 10 and item in known and item not in found:
                found.append(item)
        expected.append((found + [-1] * num)[:num])
    assert following(histories, known=list(known), num=num) == expected
