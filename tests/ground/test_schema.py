"""Canonical ids, their hashes, and the flat form of list columns."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from diffsasrec.schema import (
    canonical,
    canonical_type,
    event_hash,
    id_hash,
    list_offsets,
    list_values,
    recommendations_schema,
    sequences_schema,
    stored_type,
)

SIGNED = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
UNSIGNED = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
STRINGS = [pa.string(), pa.large_string(), pa.string_view()]


@pytest.mark.parametrize("width", SIGNED)
def test_signed_ids_are_int64_inside_and_keep_their_width_outside(width):
    assert canonical_type(width) == pa.int64()
    assert stored_type(width) == width


@pytest.mark.parametrize("width", UNSIGNED)
def test_unsigned_ids_are_uint64_inside_and_keep_their_width_outside(width):
    assert canonical_type(width) == pa.uint64()
    assert stored_type(width) == width


@pytest.mark.parametrize("text", STRINGS)
def test_every_string_type_is_a_string_inside_and_outside(text):
    assert canonical_type(text) == pa.string()
    assert stored_type(text) == pa.string()


def test_a_dictionary_counts_as_what_it_holds():
    assert canonical_type(pa.dictionary(pa.int32(), pa.string())) == pa.string()
    assert canonical_type(pa.dictionary(pa.int32(), pa.int16())) == pa.int64()
    assert stored_type(pa.dictionary(pa.int32(), pa.int16())) == pa.int16()


@pytest.mark.parametrize(
    "other", [pa.float64(), pa.bool_(), pa.binary(), pa.null(), pa.list_(pa.int64()), pa.date32()]
)
def test_nothing_else_is_an_id(other):
    assert canonical_type(other) is None


def test_canonical_leaves_the_values_alone():
    ids = pa.chunked_array([pa.array(["b", "a", "b"]).dictionary_encode()])
    assert canonical(ids).type == pa.string()
    assert canonical(ids).to_pylist() == ["b", "a", "b"]


def test_the_hash_of_an_id_never_changes():
    # part of the contract: buckets and ties of every published run follow from these numbers
    assert id_hash(pa.array(["a", "b"])).tolist() == [13950350942979735504, 12688059582079114975]
    assert id_hash(pa.array([1, 2])).tolist() == [6238072747940578789, 15839785061582574730]
    assert id_hash(pa.array([2**63], pa.uint64())).tolist() == [2720858781877447050]


def test_the_hash_of_a_string_does_not_depend_on_how_pandas_holds_it():
    as_objects = pd.Series(["a", "bb", ""], dtype=object)
    expected = pd.util.hash_pandas_object(as_objects, index=False).tolist()
    assert id_hash(pa.array(["a", "bb", ""])).tolist() == expected


def test_the_hash_of_an_id_does_not_depend_on_its_neighbours():
    ids = [f"user-{n % 7}" for n in range(50)]
    alone = [int(id_hash(pa.array([one]))[0]) for one in ids]
    assert id_hash(pa.array(ids)).tolist() == alone


def test_the_hash_of_an_event_is_the_one_of_pandas_over_its_columns():
    times = np.array([7, 7, 8])
    frame = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["x", "y", "x"], "timestamp": times})
    expected = pd.util.hash_pandas_object(frame, index=False).tolist()
    assert event_hash(pa.array([1, 1, 2]), pa.array(["x", "y", "x"]), times).tolist() == expected


def test_the_hash_of_an_event_tells_user_item_and_time_apart():
    users, items = pa.array([1, 2, 1]), pa.array([2, 1, 2])
    assert len(set(event_hash(users, items, np.array([3, 3, 1])).tolist())) == 3


def test_offsets_of_a_slice_start_at_zero():
    lists = pa.array([[9, 9], [1], [], [2, 3]])
    assert list_offsets(lists[1:]).tolist() == [0, 1, 1, 3]
    assert list_values(lists[1:]).to_pylist() == [1, 2, 3]


def test_chunks_of_lists_are_read_as_one():
    lists = pa.chunked_array([[[1], [2, 3]], [[], [4]]], pa.list_(pa.int64()))
    assert list_offsets(lists).tolist() == [0, 1, 3, 3, 4]
    assert list_values(lists).to_pylist() == [1, 2, 3, 4]


def test_no_lists_have_one_offset():
    assert list_offsets(pa.chunked_array([], pa.list_(pa.int64()))).tolist() == [0]
    assert list_values(pa.chunked_array([], pa.list_(pa.int64()))).to_pylist() == []


def test_sequences_have_the_published_columns():
    schema = sequences_schema(pa.int32())
    assert schema.names == ["user_id", "items", "times", "num_before", "holdout"]
    assert schema.field("user_id").type == pa.int32()
    assert schema.field("items").type == pa.list_(pa.int32())


def test_recommendations_have_the_published_columns():
    schema = recommendations_schema(pa.string(), pa.uint16())
    assert schema.names == ["user_id", "items", "source", "history_len", "model_version"]
    pair = schema.field("items").type.value_type
    assert [pair.field(i).name for i in range(3)] == ["item_id", "score", "rank"]
    assert [pair.field(i).type for i in range(3)] == [pa.uint16(), pa.float32(), pa.int16()]
