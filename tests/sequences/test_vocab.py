"""The vocabulary: counts of blocks, stable indices, unknown items."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.schema import exactly, vocab_schema
from diffsasrec.sequences.vocab import (
    build_vocab,
    count_items,
    index_items,
    merge_counts,
    reindexing,
    same_items,
)
from jobs.night.table_copies import previous_vocab_of_run


def count(rows, *, split_time=10, id_type=None):
    """Counts of (item, time) rows."""
    items = pa.array([item for item, _ in rows], id_type or pa.string())
    times = np.array([time for _, time in rows], np.int64)
    return count_items(items, times, split_time=split_time)


def vocab_of(rows, *, min_item_count=1, previous=None, id_type=None):
    counts = count(rows, id_type=id_type)
    item_type = id_type or pa.string()
    return build_vocab(
        counts, min_item_count=min_item_count, item_type=item_type, previous=previous
    )


def test_counts_are_of_all_events_and_of_those_before_the_split():
    counts = count([("a", 3), ("a", 9), ("a", 10), ("b", 12)]).sort_by("item_id")
    assert counts.to_pylist() == [
        {"item_id": "a", "count": 3, "count_before": 2, "first_time": 3},
        {"item_id": "b", "count": 1, "count_before": 0, "first_time": 12},
    ]


def test_merging_adds_counts_and_keeps_the_first_time():
    merged = merge_counts([count([("a", 5), ("b", 11)]), count([("a", 2), ("a", 20)])])
    assert merged.sort_by("item_id").to_pylist() == [
        {"item_id": "a", "count": 3, "count_before": 2, "first_time": 2},
        {"item_id": "b", "count": 1, "count_before": 0, "first_time": 11},
    ]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 20)), min_size=1, max_size=40),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_the_counts_of_blocks_merge_to_those_of_the_whole_in_any_order(rows, num_blocks, random):
    shuffled = random.sample(rows, len(rows))
    merged = merge_counts([count(shuffled[n::num_blocks]) for n in range(num_blocks)])
    assert merged.sort_by("item_id").equals(count(rows).sort_by("item_id"))


def test_new_items_are_numbered_in_the_order_of_their_ids():
    vocab = vocab_of([("pear", 1), ("apple", 2), ("fig", 11), ("apple", 12)])
    assert vocab["item_id"].to_pylist() == ["apple", "fig", "pear"]
    assert vocab["index"].to_pylist() == [0, 1, 2]
    assert vocab["count"].to_pylist() == [2, 1, 1]
    assert vocab["count_before"].to_pylist() == [1, 0, 1]


def test_integer_ids_are_ordered_as_numbers():
    vocab = vocab_of([(10, 1), (9, 1), (-1, 1)], id_type=pa.int64())
    assert vocab["item_id"].to_pylist() == [-1, 9, 10]


def test_the_table_has_the_published_schema_and_the_type_of_the_log():
    counts = count([(7, 1_000_000)], id_type=pa.int64())
    vocab = build_vocab(counts, min_item_count=1, item_type=pa.int16(), previous=None)
    assert vocab.schema == vocab_schema(pa.int16())
    assert vocab["first_time"].cast(pa.int64()).to_pylist() == [1_000_000]


def test_an_item_below_the_minimum_is_left_out():
    vocab = vocab_of([("a", 1), ("a", 2), ("b", 1)], min_item_count=2)
    assert vocab["item_id"].to_pylist() == ["a"]


def test_a_vocabulary_may_be_empty():
    vocab = vocab_of([("a", 1)], min_item_count=2)
    assert vocab.num_rows == 0
    assert index_items(pa.array(["a"]), vocab).tolist() == [-1]


def test_an_earlier_vocabulary_keeps_its_indices_and_new_items_follow():
    earlier = vocab_of([("m", 1), ("z", 1)])
    vocab = vocab_of([("z", 5), ("b", 2), ("a", 3), ("m", 4)], previous=earlier)
    assert vocab["item_id"].to_pylist() == ["m", "z", "a", "b"]
    assert vocab["index"].to_pylist() == [0, 1, 2, 3]
    assert vocab["first_time"].cast(pa.int64()).to_pylist() == [4, 5, 3, 2]


def test_an_item_that_is_gone_stays_with_a_count_of_zero():
    vocab = vocab_of([("b", 2)], previous=vocab_of([("a", 1), ("b", 1)]))
    assert vocab["item_id"].to_pylist() == ["a", "b"]
    assert vocab["count"].to_pylist() == [0, 1]
    assert vocab["count_before"].to_pylist() == [0, 1]
    assert vocab["first_time"].is_null().to_pylist() == [True, False]


def test_an_item_that_became_rare_stays_with_a_count_of_zero():
    earlier = vocab_of([("a", 1), ("b", 1)])
    vocab = vocab_of([("a", 1), ("b", 1), ("b", 2)], min_item_count=2, previous=earlier)
    assert vocab["item_id"].to_pylist() == ["a", "b"]
    assert vocab["count"].to_pylist() == [0, 2]


def test_the_earlier_vocabulary_is_read_by_index_and_not_by_row():
    earlier = vocab_of([("a", 1), ("b", 1), ("c", 1)])
    shuffled = earlier.take([2, 0, 1])
    assert same_items(
        vocab_of([("d", 1)], previous=shuffled), vocab_of([("d", 1)], previous=earlier)
    )


def test_the_same_log_twice_gives_the_same_vocabulary():
    rows = [("b", 1), ("a", 2)]
    first = vocab_of(rows)
    assert vocab_of(rows, previous=first).equals(first)


def test_an_unknown_item_has_index_minus_one():
    vocab = vocab_of([("a", 1), ("b", 1)])
    assert index_items(pa.array(["b", "x", "a", "b"]), vocab).tolist() == [1, -1, 0, 1]
    assert index_items(pa.array([], pa.string()), vocab).tolist() == []


@pytest.mark.parametrize("width", [pa.int8(), pa.int32(), pa.int64()])
def test_ids_of_another_width_are_the_same_ids(width):
    vocab = vocab_of([(3, 1), (5, 1)], id_type=pa.int64())
    assert index_items(pa.array([5, 4], width), vocab).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (["3", "03", "x", "5"], [3, 5], [0, -1, -1, 1]),
        ([3, 5, 4], ["5", "3", "04"], [1, 0, -1]),
    ],
)
def test_ids_of_another_type_are_the_same_ids_in_their_one_spelling(source, target, expected):
    ids = pa.array(target)
    vocab = pa.table({"item_id": ids, "index": pa.array(range(len(ids)), pa.int32())})
    assert index_items(pa.array(source), vocab).tolist() == expected


@pytest.mark.parametrize(
    ("ids", "id_type", "expected"),
    [
        (pa.array([7, 8], pa.int32()), pa.int64(), [7, 8]),
        (pa.array([7, 300], pa.int64()), pa.int8(), None),
        (pa.array([7, 8], pa.int64()), pa.string(), ["7", "8"]),
        (pa.array(["7", "8"]).dictionary_encode(), pa.string(), ["7", "8"]),
        (pa.array(["7", "8"], pa.large_string()), pa.int16(), [7, 8]),
        (pa.array(["7", "08"]), pa.int64(), None),
        (pa.array([0.5]), pa.int64(), None),
    ],
)
def test_ids_are_converted_all_or_not_at_all(ids, id_type, expected):
    converted = exactly(pa.chunked_array([ids]), id_type)
    assert (converted and (converted.type, converted.to_pylist())) == (
        expected and (id_type, expected)
    )


def test_an_earlier_vocabulary_is_read_in_the_type_of_the_log(tmp_path):
    storage, ids = Storage.of(str(tmp_path / "vocab")), pa.array(["7", "8"])
    run = Storage.of(str(tmp_path / "run"))
    values = {"lake": "unset", "events": {"path": "log"}, "vocab": {"previous_path": storage.root}}
    config = Config.model_validate(values)
    storage.write_table("part-0.parquet", pa.table({"item_id": ids, "index": [1, 0]}))
    vocab = previous_vocab_of_run(config, run, pa.int32())
    assert vocab is not None and vocab["item_id"].type == pa.int32()
    items = vocab_of([(9, 1), (7, 1)], previous=vocab, id_type=pa.int64())["item_id"]
    assert items.to_pylist() == [8, 7, 9]
    storage.write_table("part-0.parquet", pa.table({"item_id": ["7", "x"], "index": [1, 0]}))
    with pytest.raises(
        ConfigError, match=r"previous_path=.* item_id is string, in the log .* int32"
    ):
        previous_vocab_of_run(config, run, pa.int32())


def test_reindexing_maps_old_indices_to_new_ones():
    source = vocab_of([("a", 1), ("b", 1), ("c", 1)])
    target = vocab_of([("c", 1), ("a", 1)])
    assert reindexing(source, target).tolist() == [0, -1, 1]
    assert reindexing(source, source).tolist() == [0, 1, 2]


def test_vocabularies_are_the_same_when_their_items_are():
    assert same_items(vocab_of([("a", 1), ("b", 1)]), vocab_of([("b", 9), ("a", 8)]))
    assert not same_items(vocab_of([("a", 1)]), vocab_of([("a", 1), ("b", 1)]))
