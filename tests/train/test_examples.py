"""The examples of a training: windows, batch times, and their order in an epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_examples import offsets_of, queries, stretches, windows

from diffsasrec.times import DAY
from diffsasrec.train.epochs import (
    epoch_groups,
    shuffled,
    stream_seed,
    suited_batch_size,
)
from diffsasrec.train.examples import (
    DRAWN,
    Examples,
    query_examples,
    spread_query_times,
    window_examples,
)

histories = st.lists(st.integers(0, 15), min_size=1, max_size=8)


@given(lengths=histories, extra=st.integers(0, 3), max_seq_len=st.integers(1, 5))
@settings(deadline=None)
def test_every_event_but_the_first_is_a_target_exactly_once(lengths, extra, max_seq_len):
    # `extra` events of every user lie behind the cut
    offsets = offsets_of([length + extra for length in lengths])
    num_events = np.array(lengths)
    examples = window_examples(offsets, num_events, max_seq_len=max_seq_len, min_events=2)
    targets = [e for start, _, end in stretches(examples) for e in range(start + 1, end)]
    first = offsets[:-1].tolist()
    expected = [f + n for f, length in zip(first, lengths, strict=True) for n in range(1, length)]
    assert sorted(targets) == expected
    assert all(2 <= end - start <= max_seq_len + 1 for start, _, end in stretches(examples))


def test_windows_are_cut_from_the_end_of_a_history():
    assert stretches(windows([10])) == [(5, DRAWN, 10), (1, DRAWN, 6), (0, DRAWN, 2)]


def test_a_user_with_too_few_events_has_no_window():
    examples = window_examples(
        offsets_of([2, 3, 4]), np.array([2, 3, 2]), max_seq_len=4, min_events=3
    )
    assert stretches(examples) == [(2, DRAWN, 5)]


def slow_query_examples(
    times: list[list[int]], num_events: list[int], query_times: list[int], slots: int, window: int
) -> list[tuple[int, ...]]:
    """(start, boundary, end, first, query, end of the basket) of each example."""
    found: list[tuple[int, ...]] = []
    first = 0
    for user_times, limit in zip(times, num_events, strict=True):
        for query, query_time in enumerate(query_times):
            history = sum(time < query_time for time in user_times)
            if 0 < history < limit:
                start, end = max(0, history - window), min(history + slots, limit)
                basket_end = sum(time <= user_times[history] for time in user_times)
                found.append(
                    (first + start, first + history, first + end, first, query, first + basket_end)
                )
        first += len(user_times)
    return found


@given(
    times=st.lists(
        st.lists(st.integers(0, 20), min_size=1, max_size=8).map(sorted), min_size=1, max_size=6
    ),
    query_times=st.lists(st.integers(0, 21), min_size=1, max_size=5, unique=True).map(sorted),
    cut=st.integers(0, 22),
)
@settings(deadline=None)
def test_query_examples_equal_a_slow_loop(times, query_times, cut):
    num_events = [sum(time < cut for time in user_times) for user_times in times]
    examples = query_examples(
        np.array([time for user_times in times for time in user_times]),
        offsets_of([len(user_times) for user_times in times]),
        np.array(num_events),
        query_times=np.array(query_times),
        max_seq_len=3,
        num_slots=2,
    )
    columns = (examples.first.tolist(), examples.query.tolist(), examples.basket_end.tolist())
    found = [(*s, *rest) for s, *rest in zip(stretches(examples), *columns, strict=True)]
    assert sorted(found) == sorted(slow_query_examples(times, num_events, query_times, 2, 3))


def test_an_event_at_a_batch_time_is_a_target():
    examples = query_examples(
        np.array([1, 5, 5, 9]),
        offsets_of([4]),
        np.array([4]),
        query_times=np.array([5]),
        max_seq_len=4,
        num_slots=2,
    )
    assert stretches(examples) == [(0, 1, 3)]


def test_a_user_who_stays_away_over_several_batch_times_is_an_example_at_each():
    examples = query_examples(
        np.array([1, 2, 30]),
        offsets_of([3]),
        np.array([3]),
        query_times=np.array([5, 10, 20, 31]),
        max_seq_len=4,
        num_slots=2,
    )
    assert stretches(examples) == [(0, 2, 3)] * 3
    assert examples.query.tolist() == [0, 1, 2]


def test_batch_times_are_spread_evenly_by_events_and_begin_with_the_share():
    # half of the events lie in the first 100 days, half in the last ten
    quantiles = np.array([0, 100 * DAY, 110 * DAY])
    times = spread_query_times(quantiles, before=110 * DAY, share=0.75, num=3)
    assert times.tolist() == [50 * DAY, 100 * DAY, 105 * DAY]


def test_batch_times_lie_before_the_cut_and_know_nothing_of_later_quantiles():
    quantiles = np.array([0, 10, 20, 30, 40]) * DAY
    times = spread_query_times(quantiles, before=20 * DAY, share=0.5, num=2)
    assert times.tolist() == [10 * DAY, 15 * DAY]
    later = np.array([0, 10, 20, 300, 400]) * DAY
    assert spread_query_times(later, before=20 * DAY, share=0.5, num=2).tolist() == times.tolist()


@given(
    quantiles=st.lists(st.integers(0, 1000), min_size=2, max_size=9).map(sorted),
    before=st.integers(1, 1001),
    share=st.floats(0.01, 0.99),
    num=st.integers(1, 6),
)
@settings(deadline=None)
def test_batch_times_are_distinct_in_order_and_before_the_cut(quantiles, before, share, num):
    times = spread_query_times(np.array(quantiles), before=before, share=share, num=num)
    assert 1 <= len(times) <= num and (np.diff(times) > 0).all() and times[-1] < before


def test_a_seed_depends_on_every_part():
    parts = [(0, "pretrain", 1), (1, "pretrain", 1), (0, "refit", 1), (0, "pretrain", 2)]
    assert len({stream_seed(*part) for part in parts}) == 4
    assert stream_seed(0, "pretrain", 1) == stream_seed(0, "pretrain", 1) < 2**63


@pytest.mark.parametrize(
    ("num_examples", "batch_size"),
    [
        (0, 32),
        (100, 32),
        (16_383, 32),
        (16_384, 64),
        (100_000, 256),
        (262_144, 1024),
        (10**8, 1024),
    ],
)
def test_a_batch_is_a_power_of_two_that_leaves_many_steps_to_an_epoch(num_examples, batch_size):
    assert suited_batch_size(num_examples) == batch_size


def test_another_epoch_has_other_groups_and_another_order():
    counts = np.full(20, 5)
    groups = [
        epoch_groups(counts, seed=0, phase="pretrain", epoch=epoch, buckets_in_memory=10)[0]
        for epoch in (0, 0, 1)
    ]
    assert np.array_equal(groups[0], groups[1]) and not np.array_equal(groups[0], groups[2])
    first, again, second, other = (
        shuffled(50, seed=0, phase="pretrain", at=at) for at in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert np.array_equal(first, again) and sorted(first) == [*range(50)]
    assert not np.array_equal(first, second) and not np.array_equal(first, other)


def test_shifted_examples_keep_their_drawn_boundaries():
    examples = Examples.concat([windows([3]), queries(2)]).shifted(10)
    assert stretches(examples) == [(10, DRAWN, 13), (10, 12, 15), (15, 17, 20)]
    assert examples.first.tolist() == [10, 10, 15] and examples.query.tolist() == [DRAWN, 0, 1]
