"""What the lists of a night show, in numbers."""

import math

import numpy as np
import pyarrow as pa
import pytest

from diffsasrec.evaluate.exposure import BINS, binned_quantile, cumulative_shares, exposure_of
from diffsasrec.schema import recommendations_schema

VOCAB = pa.table({"item_id": ["a", "b", "c"]})


def lists(*rows: tuple[str, list[tuple[str, float]]]) -> pa.Table:
    made = [
        {
            "user_id": number,
            "items": [
                {"item_id": item, "score": math.log(p), "rank": rank}
                for rank, (item, p) in enumerate(items, 1)
            ],
            "source": source,
            "history_len": 3,
            "model_version": "v",
        }
        for number, (source, items) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, recommendations_schema(pa.int64(), pa.string()))


def test_lists_are_counted_by_length_source_and_item():
    found = exposure_of(
        lists(("model", [("a", 0.5), ("c", 0.1)]), ("popular", [("a", 0.2)]), ("model", [])), VOCAB
    )
    assert found.lengths == {2: 1, 1: 1, 0: 1}
    assert found.sources == {"model": 2, "popular": 1}
    assert found.shown.tolist() == [2, 0, 1]


def test_scores_are_those_of_the_model_alone_and_are_added_up_by_rank():
    one = exposure_of(lists(("model", [("a", 0.5), ("b", 0.01)]), ("popular", [("c", 0.9)])), VOCAB)
    two = exposure_of(lists(("model", [("b", 0.1)])), VOCAB)
    both = one + two
    assert {rank: int(counts.sum()) for rank, counts in both.scores.items()} == {1: 2, 2: 1}
    assert math.exp(binned_quantile(both.scores[2], 0.5)) == pytest.approx(0.01, rel=0.05)
    assert both.shown.tolist() == [1, 2, 1]


def test_a_quantile_is_the_middle_of_its_bin():
    counts = np.zeros(len(BINS) - 1, np.int64)
    counts[[0, 399]] = 1
    assert binned_quantile(counts, 0.0) == pytest.approx(-19.975)
    assert binned_quantile(counts, 1.0) == pytest.approx(-0.025)


def test_shares_add_up_from_the_most_frequent_item():
    shares = cumulative_shares(np.array([1, 0, 3]), by=np.array([2, 10, 8]))
    assert shares == [(1, 0.5, 0.0), (2, 0.9, 0.75), (3, 1.0, 1.0)]


def test_without_any_list_there_are_no_shares():
    assert cumulative_shares(np.zeros(3, np.int64), by=np.array([1, 2, 3])) == []
