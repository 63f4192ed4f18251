"""Folding the events of a bucket, and finishing its sequences and holdout rows."""

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffsasrec.schema import event_hash, holdout_schema, sequences_schema
from diffsasrec.sequences.fold import finish, fold
from diffsasrec.sequences.histories import flatten
from diffsasrec.sequences.vocab import build_vocab, count_items, frequent_before_split


def events_of(rows, *, user_type=None, item_type=None):
    """Events from (user, item, time) rows."""
    return pa.table(
        {
            "user_id": pa.array([row[0] for row in rows], user_type or pa.string()),
            "item_id": pa.array([row[1] for row in rows], item_type or pa.string()),
            "timestamp": pa.array([row[2] for row in rows], pa.int64()),
        }
    )


def folded_of(rows, *, max_user_events=1000, **types):
    return fold(events_of(rows, **types), max_user_events=max_user_events)


def histories(folded):
    """{user: [(item, time), ...]}"""
    return {
        row["user_id"]: list(zip(row["item_ids"], row["times"], strict=True))
        for row in folded.to_pylist()
    }


def vocab_of(folded, *, split_time, min_item_count=1, previous=None):
    items = folded["item_ids"].combine_chunks().flatten()
    times = folded["times"].combine_chunks().flatten().to_numpy()
    counts = count_items(items, times, split_time=split_time)
    return build_vocab(
        counts, min_item_count=min_item_count, item_type=items.type, previous=previous
    )


def finished(rows, *, split_time=10, min_item_count=1, previous=None):
    """sequences and holdout as dicts by user, and the counts."""
    folded, _ = folded_of(rows)
    vocab = vocab_of(
        folded, split_time=split_time, min_item_count=min_item_count, previous=previous
    )
    sequences, holdout, counts = finish(
        folded,
        vocab,
        split_time=split_time,
        min_item_count=min_item_count,
        user_type=pa.string(),
    )
    by_user = {row.pop("user_id"): row for row in sequences.to_pylist()}
    return by_user, holdout.to_pylist(), counts


def slow_fold(rows, max_user_events):
    """One user after the other, one event after the other."""
    result = {}
    for user in sorted({user for user, _, _ in rows}):
        own = sorted({(time, item) for owner, item, time in rows if owner == user})
        times, items = zip(*own, strict=True)
        frame = pd.DataFrame({"user_id": [user] * len(own), "item_id": items, "timestamp": times})
        ties = pd.util.hash_pandas_object(frame, index=False).tolist()
        ordered = sorted(zip(own, ties, strict=True), key=lambda pair: (pair[0][0], pair[1]))
        result[user] = [(item, time) for (time, item), _ in ordered][-max_user_events:]
    return result


# --- fold ---


def test_a_history_is_in_the_order_of_time():
    folded, dropped = folded_of([("u", "b", 3), ("v", "x", 9), ("u", "a", 1), ("u", "c", 2)])
    assert histories(folded) == {"u": [("a", 1), ("c", 2), ("b", 3)], "v": [("x", 9)]}
    assert dropped == {"duplicate": 0, "over_max_user_events": 0}


def test_ties_in_time_are_in_the_order_of_the_hash_of_the_event():
    basket = ["a", "b", "c", "d", "e"]
    hashes = event_hash(pa.array(["u"] * 5), pa.array(basket), np.full(5, 7)).tolist()
    expected = [item for _, item in sorted(zip(hashes, basket, strict=True))]
    assert expected != basket
    folded, _ = folded_of([("u", item, 7) for item in basket])
    assert folded["item_ids"].to_pylist() == [expected]


def test_the_order_of_a_basket_says_nothing_of_that_of_another():
    basket = ["a", "b", "c", "d", "e"]
    folded, _ = folded_of([("u", item, time) for item in basket for time in (7, 8)])
    items = folded["item_ids"][0].as_py()
    assert sorted(items[:5]) == sorted(items[5:]) and items[:5] != items[5:]


def test_an_exact_duplicate_goes_and_is_counted():
    rows = [("u", "a", 1), ("u", "a", 1), ("u", "a", 1), ("v", "a", 1)]
    folded, dropped = folded_of(rows)
    assert histories(folded) == {"u": [("a", 1)], "v": [("a", 1)]}
    assert dropped["duplicate"] == 2


def test_the_same_item_at_another_time_is_no_duplicate():
    folded, dropped = folded_of([("u", "a", 1), ("u", "a", 2), ("u", "b", 2)])
    assert len(histories(folded)["u"]) == 3
    assert dropped["duplicate"] == 0


def test_of_a_long_history_the_last_events_stay():
    rows = [("bot", f"i{n}", n) for n in range(10)] + [("u", "a", 1)]
    folded, dropped = folded_of(rows, max_user_events=3)
    assert histories(folded) == {"bot": [("i7", 7), ("i8", 8), ("i9", 9)], "u": [("a", 1)]}
    assert dropped["over_max_user_events"] == 7


def test_a_history_exactly_as_long_as_allowed_stays_whole():
    folded, dropped = folded_of([("u", "a", 1), ("u", "b", 2)], max_user_events=2)
    assert histories(folded) == {"u": [("a", 1), ("b", 2)]}
    assert dropped["over_max_user_events"] == 0


def test_duplicates_do_not_use_up_the_allowed_length():
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "b", 2), ("u", "b", 2)]
    folded, dropped = folded_of(rows, max_user_events=2)
    assert histories(folded) == {"u": [("a", 1), ("b", 2)]}
    assert dropped == {"duplicate": 2, "over_max_user_events": 0}


def test_no_events_fold_to_no_rows_of_the_same_types():
    folded, dropped = folded_of([], user_type=pa.uint64())
    assert folded.num_rows == 0
    assert folded.schema.names == ["user_id", "item_ids", "times"]
    assert folded["user_id"].type == pa.uint64()
    assert sum(dropped.values()) == 0


def test_integer_users_are_sorted_as_numbers():
    rows = [(10, 1, 1), (9, 1, 1), (-3, 1, 1)]
    folded, _ = folded_of(rows, user_type=pa.int64(), item_type=pa.int64())
    assert folded["user_id"].to_pylist() == [-3, 9, 10]


def test_unsigned_ids_above_the_signed_range_are_kept_whole():
    large = 2**64 - 1
    rows = [(large, large - 1, 2), (large, 5, 1), (3, large, 1)]
    folded, _ = folded_of(rows, user_type=pa.uint64(), item_type=pa.uint64())
    assert histories(folded) == {3: [(large, 1)], large: [(5, 1), (large - 1, 2)]}


EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.integers(1, 8))
def test_fold_equals_the_slow_group_by(rows, max_user_events):
    folded, dropped = folded_of(
        rows, max_user_events=max_user_events, user_type=pa.int64(), item_type=pa.int64()
    )
    expected = slow_fold(rows, max_user_events)
    assert histories(folded) == expected
    assert list(histories(folded)) == list(expected)
    assert dropped["duplicate"] == len(rows) - len(set(rows))
    num_kept = sum(map(len, expected.values()))
    assert num_kept + sum(dropped.values()) == len(rows)


@settings(deadline=None, max_examples=50)
@given(EVENTS)
def test_fold_equals_the_slow_group_by_for_string_ids(numbers):
    rows = [(f"user {user}", f"item {item}", time) for user, item, time in numbers]
    folded, _ = folded_of(rows)
    assert histories(folded) == slow_fold(rows, 1000)


@settings(deadline=None, max_examples=50)
@given(EVENTS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_fold_does_not_depend_on_the_order_of_rows(numbers, random, max_user_events):
    rows = [(str(user), str(item), time) for user, item, time in numbers]
    shuffled = random.sample(rows, len(rows))
    first, first_dropped = folded_of(rows, max_user_events=max_user_events)
    second, second_dropped = folded_of(shuffled, max_user_events=max_user_events)
    assert first.equals(second)
    assert first_dropped == second_dropped


def test_fold_does_not_depend_on_the_chunks_of_its_table():
    rows = [("u", "a", 2), ("v", "b", 1), ("u", "c", 1)]
    chunked = pa.concat_tables([events_of([row]) for row in rows])
    assert fold(chunked, max_user_events=9)[0].equals(folded_of(rows)[0])


# --- finish ---


def test_items_become_indices_and_the_split_is_marked():
    sequences, holdout, _ = finished([("u", "b", 3), ("u", "a", 5), ("u", "b", 12)])
    assert sequences == {
        "u": {"items": [1, 0, 1], "times": [3, 5, 12], "num_before": 2, "holdout": 2}
    }
    assert [(row["user_id"], row["item_id"]) for row in holdout] == [("u", "b")]
    assert holdout[0]["timestamp"].microsecond == 12


def test_the_tables_have_the_published_schemas():
    folded, _ = folded_of([(1, 2, 3)], user_type=pa.int64(), item_type=pa.int64())
    vocab = vocab_of(folded, split_time=10)
    sequences, holdout, _ = finish(folded, vocab, split_time=10, user_type=pa.int16())
    assert sequences.schema == sequences_schema(pa.int16())
    assert holdout.schema == holdout_schema(pa.int16(), pa.int64())


def test_an_event_exactly_at_the_split_is_not_counted_as_before():
    sequences, holdout, _ = finished([("u", "a", 9), ("u", "a", 10)], split_time=10)
    assert (sequences["u"]["num_before"], sequences["u"]["holdout"]) == (1, 1)
    assert len(holdout) == 1


def test_the_holdout_is_the_whole_basket_with_equal_weights():
    rows = [("u", "a", 1), ("u", "b", 12), ("u", "a", 12), ("u", "b", 13), ("u", "new", 12)]
    rows += [("v", "a", 2), ("v", "b", 3), ("v", "b", 15)]
    sequences, holdout, counts = finished(rows)
    assert sequences["u"]["holdout"] in (1, 2)  # at its first known item, in the order of the hash
    found = [(row["user_id"], row["item_id"], row["weight"]) for row in holdout]
    assert sorted(found) == [("u", "a", 0.5), ("u", "b", 0.5), ("v", "b", 1.0)]
    assert (counts["holdout_users"], counts["holdout_items"]) == (2, 3)


def test_a_user_without_a_holdout_has_null_and_no_holdout_row():
    sequences, holdout, counts = finished([("u", "a", 1), ("v", "new", 11)])
    assert sequences["u"]["holdout"] is None
    assert sequences["v"] == {"items": [1], "times": [11], "num_before": 0, "holdout": None}
    assert holdout == []
    assert counts["no_event_after_split"] == 1
    assert counts["no_event_before_split"] == 1


def test_rare_items_leave_the_history_and_are_counted():
    rows = [("u", "a", 1), ("u", "rare", 2), ("u", "a", 12), ("v", "a", 3)]
    sequences, _, counts = finished(rows, min_item_count=2)
    assert sequences["u"] == {"items": [0, 0], "times": [1, 12], "num_before": 1, "holdout": 1}
    assert counts["rare_item"] == 1


def test_the_first_event_after_the_split_is_skipped_when_its_item_is_rare():
    rows = [("u", "a", 1), ("u", "rare", 11), ("u", "a", 12), ("v", "a", 2)]
    _, holdout, _ = finished(rows, min_item_count=2)
    assert [row["timestamp"].microsecond for row in holdout] == [12]


def test_an_item_that_only_later_events_make_frequent_is_no_holdout_and_no_history():
    rows = [("u", "a", 1), ("u", "a", 2), ("u", "new", 3), ("u", "new", 11), ("u", "a", 12)]
    rows += [("v", "new", 4), ("v", "a", 13)]
    sequences, holdout, counts = finished(rows, min_item_count=3)
    assert holdout == []  # a has two events before the split as well
    sequences, holdout, counts = finished([*rows, ("w", "a", 1)], min_item_count=3)
    # it serves: the sequences have it
    assert sequences["u"] == {
        "items": [0, 0, 1, 1, 0],
        "times": [1, 2, 3, 11, 12],
        "num_before": 3,
        "holdout": 4,
    }
    assert sequences["v"] == {"items": [1, 0], "times": [4, 13], "num_before": 1, "holdout": None}
    assert [(row["user_id"], row["item_id"]) for row in holdout] == [("u", "a")]
    assert (counts["rare_before_split"], counts["users_too_short_before_split"]) == (2, 2)
    assert (counts["no_event_before_split"], counts["no_event_after_split"]) == (1, 1)


def test_a_user_with_nothing_left_stays_with_an_empty_history():
    rows = [("u", "rare", 1), ("v", "a", 1), ("v", "a", 2)]
    sequences, _, counts = finished(rows, min_item_count=2)
    assert sequences["u"] == {"items": [], "times": [], "num_before": 0, "holdout": None}
    assert counts["users"] == 2
    assert counts["users_without_history"] == 1


def test_every_item_may_be_rare():
    sequences, holdout, counts = finished([("u", "a", 1), ("v", "b", 2)], min_item_count=5)
    assert [row["items"] for row in sequences.values()] == [[], []]
    assert holdout == []
    assert counts["rare_item"] == 2
    assert counts["events"] == 0


def test_no_users_finish_to_empty_tables():
    sequences, holdout, counts = finished([])
    assert (sequences, holdout) == ({}, [])
    assert sum(counts.values()) == 0


def test_rare_items_leave_also_when_an_earlier_vocabulary_holds_them():
    earlier = vocab_of(folded_of([("x", "rare", 1)])[0], split_time=10)
    rows = [("u", "a", 1), ("u", "rare", 2), ("u", "a", 12)]
    sequences, _, counts = finished(rows, min_item_count=2, previous=earlier)
    assert sequences["u"]["times"] == [1, 12]
    assert sequences["u"]["items"] == [1, 1]
    assert counts["rare_item"] == 1


@settings(deadline=None, max_examples=50)
@given(EVENTS, st.integers(1, 3), st.integers(0, 6), st.integers(1, 6))
@example([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)], 1, 1, 4)
def test_every_row_is_either_an_event_or_counted_as_dropped(
    rows, min_item_count, split_time, max_user_events
):
    folded, dropped = folded_of(
        rows, max_user_events=max_user_events, user_type=pa.int64(), item_type=pa.int64()
    )
    vocab = vocab_of(folded, split_time=split_time, min_item_count=min_item_count)
    settings = {"split_time": split_time, "min_item_count": min_item_count}
    sequences, holdout, counts = finish(folded, vocab, user_type=pa.int64(), **settings)
    dropped_rows = dropped["duplicate"] + dropped["over_max_user_events"] + counts["rare_item"]
    assert counts["events"] + dropped_rows == len(rows)
    assert counts["events"] == sum(vocab["count"].to_pylist())
    assert counts["events_before_split"] == sum(vocab["count_before"].to_pylist())
    assert counts["users"] == sequences.num_rows == len({user for user, _, _ in rows})
    reasons = ("no_event_before_split", "no_event_after_split", "only_new_items_after_split")
    assert counts["holdout_items"] == holdout.num_rows  # of a basket, each
    assert counts["holdout_users"] == len(set(holdout["user_id"].to_pylist()))
    assert counts["holdout_users"] + sum(counts[reason] for reason in reasons) == counts["users"]


@settings(deadline=None, max_examples=50)
@given(EVENTS, st.integers(0, 6))
def test_the_holdout_table_repeats_what_the_sequences_mark(rows, split_time):
    folded, _ = folded_of(rows, user_type=pa.int64(), item_type=pa.int64())
    vocab = vocab_of(folded, split_time=split_time)
    sequences, holdout, _ = finish(folded, vocab, split_time=split_time, user_type=pa.int64())
    ids = vocab["item_id"].to_pylist()
    known = {ids[place] for place in np.flatnonzero(frequent_before_split(vocab, 1))}
    marked = [
        (row["user_id"], ids[item], time)
        for row in sequences.to_pylist()
        if row["holdout"] is not None
        for item, time in zip(row["items"], row["times"], strict=True)
        if time == row["times"][row["holdout"]] and ids[item] in known
    ]
    moments = holdout["timestamp"].cast(pa.int64()).to_pylist()
    columns = holdout["user_id"].to_pylist(), holdout["item_id"].to_pylist(), moments
    assert list(zip(*columns, strict=True)) == marked


# --- flat arrays ---


def flat_of(rows, split_time=10):
    folded, _ = folded_of(rows)
    vocab = vocab_of(folded, split_time=split_time)
    return flatten(finish(folded, vocab, split_time=split_time, user_type=pa.string())[0])


def test_flatten_lays_the_histories_end_to_end():
    flat = flat_of([("u", "a", 1), ("u", "b", 2), ("u", "a", 11), ("v", "b", 5)])
    assert flat.user_ids.to_pylist() == ["u", "v"]
    assert flat.items.tolist() == [0, 1, 0, 1]
    assert flat.times.tolist() == [1, 2, 11, 5]
    assert flat.offsets.tolist() == [0, 3, 4]
    assert flat.num_before.tolist() == [2, 1]
    assert flat.holdout.tolist() == [2, -1]


def test_flatten_brings_user_ids_to_their_canonical_type():
    sequences = sequences_schema(pa.int16()).empty_table()
    flat = flatten(sequences)
    assert flat.user_ids.type == pa.int64()
    assert flat.offsets.tolist() == [0]


def test_histories_can_be_cut_to_the_first_events_of_every_user():
    flat = flat_of([("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "b", 5), ("w", "a", 6)])
    first = flat.histories.first(np.array([2, 0, 1]))
    assert first.items.tolist() == [0, 1, 0]
    assert first.times.tolist() == [1, 2, 6]
    assert first.offsets.tolist() == [0, 2, 2, 3]
    assert first.owners().tolist() == [0, 0, 2]
