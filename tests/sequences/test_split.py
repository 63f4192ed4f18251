"""Where the split falls, exactly, and the holdout of each user, against a slow pandas oracle."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffsasrec.schema import id_hash
from diffsasrec.sequences.fold import finish, fold
from diffsasrec.sequences.split_time import (
    exact_quantile,
    histogram,
    merge_histograms,
    second_cut,
    time_quantiles,
)
from diffsasrec.sequences.user_sketch import SKETCH_SIZE, estimate_users, smallest_hashes
from diffsasrec.sequences.vocab import build_vocab, count_items
from diffsasrec.times import HOUR

QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]


def hourly(times, num_chunks=1):
    chunks = np.array_split(np.asarray(times, np.int64), num_chunks)
    return merge_histograms([histogram(chunk, origin=0, width=HOUR) for chunk in chunks])


def split_of(times, quantile, *, num_chunks=1, passes=None):
    """The exact quantile of `times`, every pass over them in chunks; `passes` gets their widths."""
    times = np.asarray(times, np.int64)

    def refine(low, high, width):
        if passes is not None:
            passes.append(width)
        inside = [
            histogram(chunk[(chunk >= low) & (chunk < high)], origin=low, width=width)
            for chunk in np.array_split(times, num_chunks)
        ]
        return merge_histograms(inside)

    return exact_quantile(hourly(times, num_chunks), quantile, refine)


def nearest(times, quantile):
    return int(pd.Series(times, dtype="int64").quantile(quantile, interpolation="nearest"))


def oracle(log, split_time, min_item_count):
    """The holdout rows of a log (user_id, item_id, timestamp, weight), by pandas."""
    log = log.drop_duplicates()
    counts = log[log.timestamp < split_time].item_id.value_counts()
    log = log[log.item_id.isin(counts[counts >= min_item_count].index)]
    ties = pd.util.hash_pandas_object(log[["user_id", "item_id", "timestamp"]], index=False)
    log = log.assign(tie=ties).sort_values(["user_id", "timestamp", "tie"])
    before, after = log[log.timestamp < split_time], log[log.timestamp >= split_time]
    after = after[after.user_id.isin(before.user_id) & after.item_id.isin(before.item_id)]
    basket = after[after.timestamp == after.groupby("user_id").timestamp.transform("min")]
    basket = basket.assign(weight=1 / basket.groupby("user_id").item_id.transform("size"))
    columns = ["user_id", "item_id", "timestamp", "weight"]
    return list(basket[columns].itertuples(index=False, name=None))


def holdout_of(log, split_time, min_item_count):
    """The same by the library, from fold to finish."""
    events = pa.table({name: pa.array(log[name].tolist()) for name in log})
    folded, _ = fold(events, max_user_events=1000)
    items = folded["item_ids"].combine_chunks().flatten()
    times = folded["times"].combine_chunks().flatten().to_numpy()
    counts = count_items(items, times, split_time=split_time)
    vocab = build_vocab(counts, min_item_count=min_item_count, item_type=items.type, previous=None)
    settings = {"split_time": split_time, "min_item_count": min_item_count}
    _, holdout, _ = finish(folded, vocab, user_type=pa.int64(), **settings)
    moments = holdout["timestamp"].cast(pa.int64()).to_pylist()
    users, items, weights = (holdout[n].to_pylist() for n in ("user_id", "item_id", "weight"))
    return list(zip(users, items, moments, weights, strict=True))


# --- histograms ---


def test_a_bin_knows_its_start_its_count_and_its_ends():
    table = histogram(np.array([12, 25, 19, 20]), origin=0, width=10).sort_by("start")
    assert table.to_pylist() == [
        {"start": 10, "count": 2, "low": 12, "high": 19},
        {"start": 20, "count": 2, "low": 20, "high": 25},
    ]


def test_bins_are_counted_from_their_origin():
    table = histogram(np.array([12, 25]), origin=7, width=10).sort_by("start")
    assert table["start"].to_pylist() == [7, 17]


def test_a_block_without_times_adds_nothing():
    empty = histogram(np.zeros(0, np.int64), origin=0, width=10)
    some = histogram(np.array([3, 15]), origin=0, width=10)
    assert merge_histograms([empty, some, empty]).equals(merge_histograms([some]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=60), st.integers(1, 9))
def test_histograms_of_blocks_merge_to_that_of_the_whole(times, num_chunks):
    assert hourly(times, num_chunks).equals(hourly(times))


# --- the split time ---


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=80),
    st.sampled_from([1, 1_000, 1_000_000, HOUR // 7, HOUR, 30 * HOUR]),
    st.sampled_from(QUANTILES),
    st.integers(1, 7),
)
def test_the_split_time_is_the_nearest_quantile_for_any_chunking(ticks, unit, quantile, chunks):
    times = [1_700_000_000_000_000 + tick * unit for tick in ticks]
    assert split_of(times, quantile, num_chunks=chunks) == nearest(times, quantile)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 4 * HOUR), min_size=1, max_size=80),
    st.sampled_from(QUANTILES),
    st.integers(1, 7),
)
def test_the_split_time_is_exact_to_the_microsecond(times, quantile, chunks):
    assert split_of(times, quantile, num_chunks=chunks) == nearest(times, quantile)


def test_the_split_time_does_not_depend_on_the_order_of_rows():
    times = np.random.default_rng(0).integers(0, 50 * HOUR, 1000)
    assert split_of(np.sort(times), 0.95) == split_of(times[::-1], 0.95, num_chunks=13)


@pytest.mark.parametrize(
    ("times", "quantile", "expected"),
    [
        ([7], 0.95, 7),
        ([7, 9], 0.95, 9),
        ([7, 9], 0.05, 7),
        ([7, 9], 0.5, 7),  # position 0.5 goes to the even 0
        ([7, 9, 11, 13], 0.5, 11),  # position 1.5 goes to the even 2
        ([7, 9, 11, 13, 15, 17], 0.5, 11),  # position 2.5 goes to the even 2
        ([5, 5, 5, 8], 0.5, 5),
    ],
)
def test_few_times_follow_the_nearest_rule_with_ties_to_even(times, quantile, expected):
    assert split_of(times, quantile) == expected == nearest(times, quantile)


def test_one_instant_needs_no_further_pass():
    passes: list[int] = []
    assert split_of([123_456_789] * 10, 0.95, passes=passes) == 123_456_789
    assert passes == []


def test_hours_with_one_instant_each_need_no_further_pass():
    passes: list[int] = []
    assert split_of([3 * HOUR, HOUR, 2 * HOUR], 0.5, passes=passes) == 2 * HOUR
    assert passes == []


def test_seconds_inside_one_hour_need_one_further_pass():
    passes: list[int] = []
    times = [second * 1_000_000 for second in range(100)]
    assert split_of(times, 0.25, passes=passes) == 25_000_000
    assert len(passes) == 1


def test_microseconds_need_two_further_passes_and_the_last_is_exact():
    passes: list[int] = []
    times = range(5 * HOUR + 1, 5 * HOUR + 101)
    assert split_of(times, 0.25, passes=passes, num_chunks=3) == 5 * HOUR + 26
    assert len(passes) == 2
    assert passes[-1] == 1


# --- the second cut ---


def test_the_second_cut_is_the_first_event_of_the_hour_of_its_quantile():
    times = [hour * HOUR + offset for hour in range(10) for offset in (7, 9)]
    assert second_cut(hourly(times), 9 * HOUR, 0.5) == 4 * HOUR + 7


def test_the_second_cut_looks_at_nothing_after_the_split():
    before = [hour * HOUR for hour in range(10)]
    late = [hour * HOUR for hour in range(10, 50)]
    assert second_cut(hourly(before + late), 10 * HOUR, 0.5) == 4 * HOUR


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 20 * HOUR), min_size=2, max_size=50), st.sampled_from(QUANTILES))
def test_the_second_cut_is_the_time_of_an_event_before_the_split(times, quantile):
    split_time = max(times)
    assume(min(times) < split_time)
    cut = second_cut(hourly(times), split_time, quantile)
    assert cut in times
    assert cut < split_time


def test_with_nothing_before_the_split_both_cuts_are_one():
    assert second_cut(hourly([5, 5, 5]), 5, 0.95) == 5


# --- the quantiles of the times ---


def test_time_quantiles_are_the_first_times_of_the_hours_in_which_they_lie():
    times = [hour * HOUR + offset for hour in range(10) for offset in (7, 9)]
    assert time_quantiles(hourly(times), 3) == (7, 5 * HOUR + 7, 9 * HOUR + 7)
    busy = [7] * 90 + [hour * HOUR for hour in range(1, 11)]
    assert time_quantiles(hourly(busy), 5) == (7, 7, 7, 7, 10 * HOUR)


def test_one_instant_is_every_quantile():
    assert time_quantiles(hourly([5, 5, 5]), 4) == (5, 5, 5, 5)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 20 * HOUR), min_size=1, max_size=60),
    st.integers(2, 12),
    st.integers(1, 4),
)
def test_time_quantiles_are_right_to_the_hour_for_any_chunking(times, num, num_chunks):
    found = time_quantiles(hourly(times, num_chunks), num)
    ordered = sorted(times)
    for place, time in zip(np.linspace(0, len(times) - 1, num), found, strict=True):
        exact = ordered[int(np.round(place))]
        assert time // HOUR == exact // HOUR and time in times and time <= exact
    assert found[0] == ordered[0] and list(found) == sorted(found)


# --- the number of users ---


def sketch_of(user_ids, num_chunks):
    """Users repeat in the chunks of a log."""
    chunks = np.array_split(np.concatenate([user_ids, user_ids[::-1]]), num_chunks)
    sketch = np.zeros(0, np.uint64)
    for chunk in chunks:
        sketch = np.union1d(sketch, smallest_hashes(pa.array(chunk)))[:SKETCH_SIZE]
    return sketch


@pytest.mark.parametrize("num_users", [1, 2, 1000, SKETCH_SIZE - 1])
def test_few_users_are_counted_exactly(num_users):
    assert estimate_users(sketch_of(np.arange(num_users), 7)) == num_users


def test_no_users_are_none():
    assert estimate_users(smallest_hashes(pa.array([], pa.string()))) == 0


@pytest.mark.parametrize("num_users", [SKETCH_SIZE, 20_000, 100_000])
def test_many_users_are_estimated_within_a_few_percent(num_users):
    assert estimate_users(sketch_of(np.arange(num_users), 3)) == pytest.approx(num_users, rel=0.06)


def test_the_estimate_does_not_depend_on_the_chunks():
    users = np.arange(30_000)
    whole = estimate_users(sketch_of(users, 1))
    assert {estimate_users(sketch_of(users, chunks)) for chunks in (2, 7, 50)} == {whole}


@pytest.mark.parametrize("num_users", [3, SKETCH_SIZE, 40_000])
@pytest.mark.parametrize("repeats", [1, 30])
def test_the_smallest_hashes_are_those_of_a_full_sort(num_users, repeats):
    users = pa.array(np.tile(np.arange(num_users), repeats))
    assert np.array_equal(smallest_hashes(users), np.unique(id_hash(users))[:SKETCH_SIZE])


def test_a_sketch_holds_distinct_hashes_in_order():
    sketch = smallest_hashes(pa.array(["b", "a", "b"]))
    assert sketch.tolist() == sorted(id_hash(pa.array(["a", "b"])).tolist())


# --- the whole rule, against pandas ---

EVENTS = st.tuples(st.integers(0, 5), st.sampled_from("abcdefgh"), st.integers(0, 7))


@settings(deadline=None, max_examples=60)
@given(st.lists(EVENTS, min_size=1, max_size=70), st.sampled_from(QUANTILES), st.integers(1, 3))
def test_split_and_holdout_equal_the_pandas_oracle(rows, quantile, min_item_count):
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    split_time = split_of(log["timestamp"], quantile, num_chunks=4)
    assert split_time == nearest(log["timestamp"], quantile)
    expected = oracle(log, split_time, min_item_count)
    assert holdout_of(log, split_time, min_item_count) == expected


def test_the_oracle_agrees_on_a_larger_log_full_of_baskets():
    rng = np.random.default_rng(1)
    log = pd.DataFrame(
        {
            "user_id": rng.integers(0, 200, 4000),
            "item_id": [f"sku-{n}" for n in rng.zipf(1.3, 4000) % 500],
            "timestamp": 1_700_000_000_000_000 + rng.integers(0, 90, 4000) * 86_400_000_000,
        }
    )
    split_time = split_of(log["timestamp"], 0.95, num_chunks=5)
    expected = oracle(log, split_time, 2)
    assert len(expected) > 50
    assert holdout_of(log, split_time, 2) == expected


def test_the_order_of_a_basket_favours_no_item():
    rows = [(user, item, time) for user in range(100) for item in "abcd" for time in (1, 2)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    held = holdout_of(log, 2, 1)
    assert len(held) == 400 and {weight for *_, weight in held} == {0.25}
    first = [item for _, item, _, _ in held[::4]]
    assert all(10 <= first.count(item) <= 40 for item in "abcd")


def test_all_events_at_one_instant_have_nothing_before_and_no_holdout():
    log = pd.DataFrame([(1, "a", 5), (2, "a", 5)], columns=["user_id", "item_id", "timestamp"])
    assert split_of(log["timestamp"], 0.95) == 5
    assert holdout_of(log, 5, 1) == []
