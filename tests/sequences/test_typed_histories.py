"""Histories of typed events: folded, finished, cut and held out."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typed_events import NUM_ITEMS, TYPES, C, Log, P, V, typed_histories, typed_logs

from diffsasrec.files.storage import Storage
from diffsasrec.schema import sequences_schema
from diffsasrec.score.rules import with_excluded
from diffsasrec.sequences.fold import finish, fold
from diffsasrec.sequences.histories import Flat, flatten, only_items
from diffsasrec.sequences.holdout import find_holdout, holdout_between, next_items
from diffsasrec.sequences.vocab import build_vocab, count_items

Rows = list[tuple[str, str, int, int]]  # user, item, time, code
KNOWN = np.ones(NUM_ITEMS, bool)


def folded_of(rows: Rows, most: int = 1000) -> tuple[pa.Table, dict[str, int]]:
    names = ("user_id", "item_id", "timestamp", "type")
    kinds = (pa.string(), pa.string(), pa.int64(), pa.int8())
    columns = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds)]
    return fold(pa.table(dict(zip(names, columns, strict=True))), max_user_events=most)


def finished(rows: Rows, split_time: int = 10) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    folded, _ = folded_of(rows)
    items = folded["item_ids"].combine_chunks().flatten()
    times = folded["times"].combine_chunks().flatten().to_numpy()
    counts = count_items(items, times, split_time=split_time)
    vocab = build_vocab(counts, min_item_count=1, item_type=pa.string(), previous=None)
    return finish(folded, vocab, split_time=split_time, user_type=pa.string(), types=TYPES)


# --- fold ---


def test_events_of_two_types_at_one_time_both_stay_the_lighter_first():
    folded, dropped = folded_of([("u", "a", 5, P), ("u", "a", 5, V), ("u", "a", 5, P)])
    (row,) = folded.to_pylist()
    assert (row["item_ids"], row["times"], row["types"]) == (["a", "a"], [5, 5], [V, P])
    assert dropped["duplicate"] == 1


def test_the_newest_events_stay_whatever_their_type():
    folded, dropped = folded_of([("u", "a", n, [P, V][n > 0]) for n in range(4)], most=2)
    (row,) = folded.to_pylist()
    assert (row["times"], row["types"]) == ([2, 3], [V, V])
    assert dropped["over_max_user_events"] == 2


some_rows = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 2)),
    max_size=20,
)


@given(rows=some_rows)
@settings(deadline=None)
def test_a_fold_keeps_every_distinct_event_and_orders_items_as_without_types(rows):
    folded, dropped = folded_of(rows)
    found = [
        (row["user_id"], *event)
        for row in folded.to_pylist()
        for event in zip(row["item_ids"], row["times"], row["types"], strict=True)
    ]
    assert sorted(found) == sorted(set(rows)) and dropped["duplicate"] == len(rows) - len(found)
    plain, _ = folded_of([row for row in dict.fromkeys((*row[:3], 0) for row in rows)])
    for typed, alike in zip(folded.to_pylist(), plain.to_pylist(), strict=True):
        events = zip(typed["item_ids"], typed["times"], strict=True)
        assert list(dict.fromkeys(events)) == list(
            zip(alike["item_ids"], alike["times"], strict=True)
        )


# --- finish ---


def test_the_holdout_is_the_first_event_of_a_target_type():
    rows = [("u", "a", 1, V), ("u", "b", 2, P), ("u", "a", 11, V), ("u", "b", 12, P)]
    sequences, holdout, counts = finished(rows)
    (row,) = sequences.to_pylist()
    assert (row["types"], row["num_before"], row["holdout"]) == ([V, P, V, P], 2, 3)
    assert [row["item_id"] for row in holdout.to_pylist()] == ["b"]
    assert counts["holdout_users"] == 1


def test_an_item_that_was_only_viewed_before_may_be_bought_after():
    rows = [("u", "a", 1, V), ("u", "a", 12, P)]
    _, holdout, _ = finished(rows)
    assert [(row["item_id"], row["weight"]) for row in holdout.to_pylist()] == [("a", 1.0)]


def test_who_buys_nothing_after_the_split_is_counted_as_such():
    rows = [("u", "a", 1, P), ("u", "a", 12, V), ("v", "a", 1, P), ("v", "new", 13, P)]
    _, holdout, counts = finished(rows)
    assert holdout.num_rows == 0
    assert (counts["no_target_after_split"], counts["only_new_items_after_split"]) == (1, 1)


def test_the_file_of_a_bucket_says_what_its_codes_mean(tmp_path):
    sequences, _, _ = finished([("u", "a", 1, V), ("u", "b", 2, C)])
    assert sequences.schema.equals(sequences_schema(pa.string(), TYPES), check_metadata=True)
    storage = Storage.of(str(tmp_path))
    storage.write_table("sequences/part.parquet", sequences)
    read = storage.read_table("sequences/part.parquet")
    pairs = pa.table({"user_id": ["u"], "item_id": ["a"]})
    vocab = pa.table({"item_id": ["a", "b"]})
    for table in (read, with_excluded(read, pairs, vocab), read.slice(0, 1)):
        flat = flatten(table)
        assert flat.types is not None and flat.types.types == TYPES
        assert flat.types.codes.tolist() == [V, C]


def test_an_empty_bucket_has_types_too():
    sequences, _, _ = finished([])
    flat = flatten(sequences)
    assert flat.types is not None and len(flat.types.codes) == 0


# --- histories ---

LOG: Log = [[(0, 1, V), (1, 2, P), (0, 12, P)], [], [(2, 3, C), (2, 4, V)]]


@pytest.mark.parametrize(
    ("cut", "codes"),
    [
        (lambda h: h.before(10), [V, P, C, V]),
        (lambda h: h.first(np.array([1, 0, 1])), [V, C]),
        (lambda h: h.of_users(np.array([2, 0])), [C, V, V, P, P]),
        (lambda h: h.reindexed(np.array([0, -1, 1, 2, 3, 4], np.int32)), [V, P, C, V]),
    ],
)
def test_events_keep_their_types(cut, codes):
    histories = cut(typed_histories(LOG))
    assert histories.types.codes.tolist() == codes
    assert len(histories.items) == len(codes)


def test_seen_are_the_items_of_events_whose_type_says_so():
    seen = typed_histories(LOG).seen()
    assert (seen.items.tolist(), seen.offsets.tolist()) == ([1, 0, 2], [0, 2, 2, 3])


def test_only_some_items_keep_their_types():
    histories = typed_histories(LOG)
    nobody = np.full(3, -1, np.int32)
    flat = Flat(
        pa.array([1, 2, 3]),
        histories.items,
        histories.times,
        histories.offsets,
        np.array([2, 0, 2], np.int32),
        nobody,
        histories.types,
    )
    left = only_items(flat, np.array([True, False, True, True, True, True]))
    assert left.types is not None and left.types.codes.tolist() == [V, P, C, V]


# --- holdout ---


def slow_holdout(log: Log, cut: int, before: int) -> dict[int, list[int]]:
    """By user, the distinct items of the first moment in [cut, before) with a purchase."""
    found = {}
    for user, history in enumerate(log):
        bought = [(item, t) for item, t, code in history if code == P and cut <= t < before]
        if bought and any(t < cut for _, t, _ in history):
            moment = min(t for _, t in bought)
            found[user] = sorted({item for item, t in bought if t == moment})
    return found


@given(log=typed_logs, cut=st.integers(1, 6), before=st.integers(2, 7))
@settings(deadline=None)
def test_a_holdout_between_two_times_equals_a_slow_loop(log, cut, before):
    held = holdout_between(typed_histories(log), cut=cut, before=before, known=KNOWN)
    targets = held.targets
    found = {
        int(user): sorted(targets.items[targets.offsets[row] : targets.offsets[row + 1]].tolist())
        for row, user in enumerate(held.users)
    }
    assert found == slow_holdout(log, cut, before)
    assert held.past.types is not None and (held.past.times < cut).all()


def test_an_item_with_two_target_types_at_one_time_is_one_target():
    types = [("u", "a", 1, V), ("u", "a", 12, C), ("u", "a", 12, P)]
    folded, _ = folded_of(types)
    both = np.array([False, True, True])
    _, position, _ = find_holdout(
        np.zeros(3, np.int32),
        np.array([1, 12, 12]),
        np.array([0, 3]),
        split_time=10,
        known=KNOWN,
        targets=both,
    )
    assert position.tolist() == [1] and folded.num_rows == 1
    twice = typed_histories([[(0, 1, V), (0, 12, P), (1, 12, P), (0, 12, P)]])
    held = holdout_between(twice, cut=10, before=None, known=KNOWN)
    assert held.targets.items.tolist() == [0, 1]


def test_the_next_items_are_those_of_target_events():
    histories = typed_histories([[(0, 1, P), (1, 11, V), (2, 12, P), (3, 13, C), (4, 14, P)]])
    events = histories.items, histories.times, histories.offsets
    targets = histories.are_targets()
    found = next_items(*events, split_time=10, known=KNOWN, num=3, targets=targets)
    assert found.tolist() == [[2, 4, -1]]
