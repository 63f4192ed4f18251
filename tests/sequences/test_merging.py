"""Merging in batches comes to the same as merging everything at once."""

import numpy as np
import pyarrow as pa
import pytest

from diffsasrec.sequences.merging import Merging
from diffsasrec.sequences.split_time import histogram, merge_histograms
from diffsasrec.sequences.vocab import build_vocab, count_items, merge_counts
from diffsasrec.times import HOUR


def blocks() -> list[tuple[pa.Array, np.ndarray]]:
    """Thirty blocks of events, of 40 items that come in no order."""
    rng = np.random.default_rng(1)
    ids = [pa.array([f"i{n}" for n in rng.integers(0, 40, 25)]) for _ in range(30)]
    return [(each, rng.integers(0, 90 * HOUR, 25)) for each in ids]


@pytest.mark.parametrize("most_rows", [1, 100, 1_000_000])
def test_a_vocabulary_is_the_same_however_its_counts_are_merged(most_rows: int):
    counts = [count_items(ids, times, split_time=50 * HOUR) for ids, times in blocks()]
    merging = Merging(merge_counts, most_rows=most_rows)
    for table in counts:
        merging.add(table)

    def vocab(merged: pa.Table) -> pa.Table:
        return build_vocab(merged, min_item_count=3, item_type=pa.string(), previous=None)

    assert vocab(merging.result()).equals(vocab(merge_counts(counts)))


@pytest.mark.parametrize("most_rows", [1, 100, 1_000_000])
def test_a_histogram_is_the_same_however_its_parts_are_merged(most_rows: int):
    parts = [histogram(times, origin=0, width=HOUR) for _, times in blocks()]
    merging = Merging(merge_histograms, most_rows=most_rows)
    for table in parts:
        merging.add(table)
    assert merging.result().equals(merge_histograms(parts))


def test_the_whole_is_gone_through_once_for_about_as_many_new_rows():
    sizes: list[int] = []

    def merge(tables: list[pa.Table]) -> pa.Table:
        sizes.append(sum(table.num_rows for table in tables))
        return merge_counts(tables)

    merging = Merging(merge, most_rows=10)
    times = np.zeros(5, np.int64)
    for block in range(40):  # forty blocks with five items each, all different
        ids = pa.array([f"{block}-{n}" for n in range(5)])
        merging.add(count_items(ids, times, split_time=1))
    assert merging.result().num_rows == 200
    # 10 rows, then 10 + 20 new ones, then 30 + 40, 70 + 80, and the last 50
    assert sizes == [10, 30, 70, 150, 200]


def test_a_single_table_is_merged_too():
    merging = Merging(merge_histograms)
    merging.add(histogram(np.array([9 * HOUR, 2 * HOUR]), origin=0, width=HOUR))
    assert merging.result()["start"].to_pylist() == [2 * HOUR, 9 * HOUR]
