"""Which items a table of items knows, and which of them it may show."""

import numpy as np
import pyarrow as pa
import pytest

from diffsasrec.item_tables.all_items import PART, AllItems

NOTHING = pa.table({"item_id": pa.array([], pa.string()), "category": pa.array([], pa.string())})


def test_items_of_the_log_alone_and_of_the_metadata_alone_follow_those_of_the_weights():
    weights, log = pa.table({"item_id": ["b", "a"]}), pa.table({"item_id": ["c", "a"]})
    metadata = pa.table({"item_id": ["z", "a", "d"], "category": ["k", None, "l"]})
    items = AllItems.of(weights, log, np.array([True, False]), metadata)
    assert items.ids.to_pylist() == ["b", "a", "c", "d", "z"]
    assert items.allowed.tolist() == [True, False, False, False, False]
    assert items.of_log.tolist() == [2, 1]
    named = [None if code < 0 else items.names[code].as_py() for code in items.category]
    assert named == [None, None, None, "l", "k"]


@pytest.mark.parametrize(("kind", "kept"), [(pa.int8(), [5, 6, 9]), (pa.int64(), [5, 6, 9, 300])])
def test_metadata_whose_ids_the_log_can_not_have_is_left_out(kind: pa.DataType, kept: list[int]):
    vocab = pa.table({"item_id": pa.array([5, 6], kind)})
    metadata = pa.table({"item_id": ["9", "300", "07", "x", "6"], "category": ["k"] * 5})
    items = AllItems.of(vocab, vocab, np.ones(2, bool), metadata)
    assert items.ids.equals(pa.array(kept, kind))


def test_without_metadata_no_item_has_a_category():
    vocab = pa.table({"item_id": ["a"]})
    items = AllItems.of(vocab, vocab, np.ones(1, bool), None)
    assert (items.category.tolist(), len(items.names)) == ([-1], 0)


def test_a_table_has_a_file_for_every_so_many_items_and_one_at_least():
    for number, parts in ((0, 1), (1, 1), (PART, 1), (PART + 1, 2)):
        vocab = pa.table({"item_id": pa.array(np.arange(number))})
        items = AllItems.of(vocab, vocab, np.ones(number, bool), None)
        found = [n for part in range(items.num_parts) for n in items.part(part)]
        assert (items.num_parts, found) == (parts, list(range(number)))
