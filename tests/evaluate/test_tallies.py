"""Legend: n users, K list length, V items; -1 stands behind the end of a list."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.evaluate.baselines import Popularity, Score, own_most_frequent
from diffsasrec.evaluate.gate import gate_failures
from diffsasrec.evaluate.protocol import PROTOCOL
from diffsasrec.evaluate.tallies import (
    bucket_tallies,
    holdout_targets,
    list_matrix,
    measure,
    tally,
)
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import append_entry, append_rollback
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import recommendations_schema
from diffsasrec.sequences.histories import Flat, UserItems
from jobs.evaluate import previous_metrics

KS = (1, 3)
VOCAB = pa.table({"item_id": ["apple", "bread", "cheese"]})
MODEL = {"n": 100, "NDCG@10": 0.18, "HR@10": 0.3}
NO_GATE: dict[str, Any] = {
    "floors": {},
    "metric": "NDCG@10",
    "max_relative_drop": None,
    "previous": None,
}

# a user's list and holdout items, of five items
users = st.lists(
    st.tuples(
        st.permutations(range(5)),
        st.integers(0, 3),
        st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
    ),
    max_size=8,
)


def recommendations(*lists: list[str]) -> pa.Table:
    rows = [
        {
            "user_id": user,
            "items": [
                {"item_id": item, "score": -float(rank), "rank": rank}
                for rank, item in enumerate(items, 1)
            ],
            "source": "model",
            "history_len": 1,
            "model_version": "0" * 12,
        }
        for user, items in enumerate(lists)
    ]
    return pa.Table.from_pylist(rows, recommendations_schema(pa.int64(), pa.string()))


def baskets(*targets: list[int]) -> UserItems:
    """The holdout items of each user."""
    items = [item for basket in targets for item in basket]
    return UserItems(np.array(items, np.int64), np.cumsum([0, *map(len, targets)]))


def padded(drawn: list[tuple[list[int], int, list[int]]]) -> np.ndarray:
    """The lists, [n, 3]."""
    lists = [order[:length] + [-1] * (3 - length) for order, length, _ in drawn]
    return np.array(lists, np.int64).reshape(-1, 3)


# --- lists ---


def test_lists_are_the_indices_of_their_items_filled_with_minus_1():
    table = recommendations(["cheese", "apple"], [], ["bread"])
    assert list_matrix(table, VOCAB, k=3).tolist() == [[2, 0, -1], [-1, -1, -1], [1, -1, -1]]


def test_an_unknown_item_keeps_its_place_and_has_no_index():
    table = recommendations(["apple", "durian", "bread"])
    assert list_matrix(table, VOCAB, k=3).tolist() == [[0, -1, 1]]


def test_longer_lists_are_cut():
    table = recommendations(["cheese", "apple", "bread"], ["bread"])
    assert list_matrix(table, VOCAB, k=2).tolist() == [[2, 0], [1, -1]]


def test_the_rank_and_not_the_position_is_the_place():
    rows = recommendations(["cheese", "apple"]).to_pylist()
    rows[0]["items"].reverse()
    table = pa.Table.from_pylist(rows, recommendations_schema(pa.int64(), pa.string()))
    assert list_matrix(table, VOCAB, k=2).tolist() == [[2, 0]]


def test_a_slice_or_several_chunks_of_a_table_have_their_own_lists():
    table = recommendations(["apple"], ["bread", "apple"], ["cheese"])
    assert list_matrix(table[1:2], VOCAB, k=2).tolist() == [[1, 0]]
    chunks = pa.concat_tables([table[2:], table[:1]])
    assert list_matrix(chunks, VOCAB, k=2).tolist() == [[2, -1], [0, -1]]


def test_a_table_without_users_has_no_lists():
    assert list_matrix(recommendations(), VOCAB, k=2).shape == (0, 2)


# --- tallies and metrics ---


def slow_metrics(
    lists: np.ndarray, targets: list[list[int]], counts: np.ndarray
) -> dict[str, float]:
    """HR, NDCG, MRR, Coverage and MeanPopularity with a loop over users."""
    result: dict[str, float] = {"n": len(lists)}
    for k in KS:
        hits, discounts, inverses, shown = [], [], [], []
        for row, basket in zip(lists.tolist(), targets, strict=True):
            first = [item for item in row[:k] if item >= 0]
            ranks = [first.index(item) + 1 for item in basket if item in first]
            hits.append(len(ranks) / len(basket))
            discounts.append(sum(1 / np.log2(rank + 1) for rank in ranks) / len(basket))
            inverses.append(sum(1 / rank for rank in ranks) / len(basket))
            shown += first
        shares = [counts[item] / counts.sum() for item in shown]
        result |= {
            f"HR@{k}": sum(hits) / max(len(hits), 1),
            f"NDCG@{k}": sum(discounts) / max(len(hits), 1),
            f"MRR@{k}": sum(inverses) / max(len(hits), 1),
            f"Coverage@{k}": len(set(shown)) / (counts > 0).sum(),
            f"MeanPopularity@{k}": sum(shares) / max(len(shown), 1),
        }
    return result


@settings(deadline=None, max_examples=50)
@given(users)
def test_metrics_equal_a_loop_over_users(drawn):
    lists, targets = padded(drawn), [basket for _, _, basket in drawn]
    counts = np.array([4, 1, 3, 2, 2])
    counted = tally(lists, baskets(*targets), ks=KS, num_items=5)
    measured = measure(counted, known_counts=counts, samples=20, seed=0)
    for name, value in slow_metrics(lists, targets, counts).items():
        assert measured[name] == pytest.approx(value), name


@settings(deadline=None, max_examples=50)
@given(users, st.integers(0, 8))
def test_the_tallies_of_two_buckets_add_up_to_that_of_all_users(drawn, border):
    lists, targets = padded(drawn), [basket for _, _, basket in drawn]
    whole = tally(lists, baskets(*targets), ks=KS, num_items=5)
    first = tally(lists[:border], baskets(*targets[:border]), ks=KS, num_items=5)
    total = first + tally(lists[border:], baskets(*targets[border:]), ks=KS, num_items=5)
    for name, spread in whole.gains.items():
        assert total.gains[name].counts.tolist() == spread.counts.tolist()
        assert total.gains[name].mean() == spread.mean()
    assert {k: c.tolist() for k, c in total.shown.items()} == {
        k: c.tolist() for k, c in whole.shown.items()
    }


def test_a_user_without_a_list_is_a_miss():
    lists = np.array([[1, 0], [-1, -1]])
    counted = tally(lists, baskets([1], [1]), ks=(2,), num_items=2)
    measured = measure(counted, known_counts=np.array([1, 1]), samples=10, seed=0)
    assert (measured["n"], measured["HR@2"], measured["MRR@2"]) == (2, 0.5, 0.5)


def test_a_target_without_an_index_is_a_miss():
    counted = tally(np.array([[0, -1]]), baskets([-1]), ks=(2,), num_items=2)
    assert (counted.num_users, counted.gains["HR@2"].mean()) == (1, 0.0)


def test_a_user_has_one_vote_however_large_the_basket():
    lists = np.array([[0, 1], [2, 3]])
    counted = tally(lists, baskets([0, 1, 2, 3], [2]), ks=(2,), num_items=4)
    assert counted.gains["HR@2"].mean() == (0.5 + 1.0) / 2
    assert counted.gains["MRR@2"].mean() == ((1 + 0.5) / 4 + 1.0) / 2


def test_the_targets_of_a_holdout_table_are_those_of_each_user():
    table = pa.table(
        {"user_id": ["u", "u", "v"], "item_id": ["cheese", "apple", "bread"], "weight": [0.5] * 3}
    )
    found = holdout_targets(table, VOCAB)
    assert (found.items.tolist(), found.offsets.tolist()) == ([2, 0, 1], [0, 2, 3])
    assert holdout_targets(table[:0], VOCAB).offsets.tolist() == [0]


def test_coverage_counts_what_is_shown_in_the_first_k():
    lists = np.array([[0, 1, 2], [0, 2, 3]])
    counted = tally(lists, baskets([0], [0]), ks=(1, 2, 3), num_items=5)
    measured = measure(counted, known_counts=np.array([1, 1, 1, 1, 0]), samples=10, seed=0)
    assert [measured[f"Coverage@{k}"] for k in (1, 2, 3)] == [1 / 4, 3 / 4, 4 / 4]


def test_gini_is_over_the_items_known_before_the_split():
    counted = tally(np.array([[0], [1]]), baskets([0], [0]), ks=(1,), num_items=4)
    even = measure(counted, known_counts=np.array([7, 1, 0, 0]), samples=10, seed=0)
    uneven = measure(counted, known_counts=np.array([7, 1, 1, 1]), samples=10, seed=0)
    assert (even["Gini@1"], uneven["Gini@1"]) == (0.0, 0.5)


def test_every_metric_of_a_rank_has_an_interval_around_it():
    lists = np.repeat([[2, 3], [1, 2], [2, 1]], [50, 30, 20], axis=0)
    counted = tally(lists, baskets(*[[1]] * 100), ks=(2,), num_items=4)
    measured = measure(counted, known_counts=np.ones(4, np.int64), samples=200, seed=0)
    for name in ("HR@2", "NDCG@2", "MRR@2"):
        low, high = measured[f"{name}_ci"]
        assert 0 < low < measured[name] < high < 1


# --- baselines on a bucket ---


def bucket(*histories: list[tuple[int, int]]) -> Flat:
    """Users with events (item, time). The split of the bucket itself is of no use here."""
    events = [event for history in histories for event in history]
    return Flat(
        user_ids=pa.array(range(len(histories))),
        items=np.array([item for item, _ in events], np.int32),
        times=np.array([time for _, time in events], np.int64),
        offsets=np.cumsum([0, *map(len, histories)]),
        num_before=np.zeros(len(histories), np.int32),
        holdout=np.full(len(histories), -1, np.int32),
    )


BUCKET = bucket(
    [(0, 1), (1, 2), (3, 10), (2, 11)],  # the first after the cut counts: 3
    [(3, 3), (5, 12), (2, 13)],  # 5 is not known: 2
    [(1, 9), (2, 20)],  # its only later event lies at the end
    [(4, 12)],  # nothing before the cut
    [(2, 1), (2, 4)],  # nothing after it
    [(0, 5), (0, 15)],  # again what it had
)
KNOWN = np.arange(6) < 5
BY_INDEX = Popularity(np.array([6, 5, 4, 3, 2, 1]))  # 0 is the most popular


def hits(score, *, before, filter_seen=False, allowed=KNOWN, k=4) -> list[int]:
    """In how many lists of users of `BUCKET` the holdout item is at each rank 1..k, and in none."""
    options = {"cut": 10, "before": before, "known": KNOWN, "allowed": allowed}
    ks = tuple(range(1, k + 1))
    counted = bucket_tallies(BUCKET, {"it": score}, ks=ks, filter_seen=filter_seen, **options)["it"]
    within = [round(counted.gains[f"HR@{k}"].mean() * counted.num_users) for k in ks]
    return [*np.diff([0, *within]).tolist(), counted.num_users - within[-1]]


def test_the_holdout_is_the_first_known_item_from_the_cut_to_the_end():
    assert hits(BY_INDEX, before=20) == [1, 0, 1, 1, 0]  # items 0, 2 and 3
    assert hits(BY_INDEX, before=21) == [1, 0, 2, 1, 0]  # and 2 once more
    assert hits(BY_INDEX, before=None) == hits(BY_INDEX, before=21)
    assert hits(BY_INDEX, before=13) == [0, 0, 0, 1, 0]  # 3 alone
    assert hits(BY_INDEX, before=10) == [0, 0, 0, 0, 0]


def test_what_the_user_had_before_the_cut_is_filtered():
    # 3 behind 2; 2 behind 0 and 1; the last user's 0 is filtered
    assert hits(BY_INDEX, before=20, filter_seen=True) == [0, 1, 1, 0, 1]


def test_what_is_not_allowed_is_not_listed():
    allowed = KNOWN & (np.arange(6) != 2)
    assert hits(BY_INDEX, before=20, allowed=allowed) == [1, 0, 1, 0, 1]


def test_a_score_sees_events_before_the_cut_alone():
    # only the last user's holdout item is in its history
    assert hits(own_most_frequent, before=20) == [1, 0, 0, 0, 2]


def test_a_score_sees_known_items_alone():
    # the first user's history is 0, 1: without 0 it has one item; the last one's is empty then
    known = KNOWN & (np.arange(6) != 0)
    assert hits(own_most_frequent, before=20) == [1, 0, 0, 0, 2]
    options: dict[str, Any] = {"known": known, "allowed": KNOWN, "filter_seen": False}
    scores = {"own": own_most_frequent}
    counted = bucket_tallies(BUCKET, scores, cut=10, before=20, ks=(4,), **options)["own"]
    assert counted.num_users == 2
    assert counted.shown[4].tolist() == [0, 1, 0, 1, 0, 0]


def test_every_score_and_every_k_has_its_tally():
    scores: dict[str, Score] = {"popular": BY_INDEX, "own": own_most_frequent}
    options: dict[str, Any] = {"known": KNOWN, "allowed": KNOWN, "filter_seen": False}
    counted = bucket_tallies(BUCKET, scores, cut=10, before=20, ks=(1, 2), **options)
    shown = {name: {k: c.tolist() for k, c in t.shown.items()} for name, t in counted.items()}
    assert shown["popular"] == {1: [3, 0, 0, 0, 0, 0], 2: [3, 3, 0, 0, 0, 0]}
    assert shown["own"] == {1: [2, 0, 0, 1, 0, 0], 2: [2, 1, 0, 1, 0, 0]}


def test_a_bucket_without_users_has_an_empty_tally():
    options: dict[str, Any] = {"known": KNOWN, "allowed": KNOWN, "filter_seen": True}
    counted = bucket_tallies(bucket(), {"it": BY_INDEX}, cut=10, before=None, ks=(2,), **options)
    measured = measure(counted["it"], known_counts=np.arange(6), samples=10, seed=0)
    assert (measured["n"], measured["NDCG@2"], measured["NDCG@2_ci"]) == (0, 0.0, [0.0, 0.0])


# --- the gate ---


def failures(model=MODEL, **changes) -> list[str]:
    return gate_failures(model, **(NO_GATE | changes))


def test_without_a_gate_nothing_fails():
    assert failures(previous={"NDCG@10": 1.0}) == []
    assert failures({"n": 0}) == []


def test_a_value_below_its_floor_fails_and_one_at_it_does_not():
    (failure,) = failures(floors={"NDCG@10": 0.2, "HR@10": 0.3})
    assert failure == "NDCG@10 is 0.1800, below its floor of 0.2 (gate.floors)"


def test_every_floor_that_is_missed_is_named():
    found = failures(floors={"NDCG@10": 0.2, "HR@10": 0.4})
    assert [text.split()[0] for text in found] == ["NDCG@10", "HR@10"]


@pytest.mark.parametrize(("previous", "fails"), [(0.1, 0), (0.199, 0), (0.201, 1), (0.4, 1)])
def test_a_drop_of_more_than_a_tenth_fails(previous, fails):
    found = failures(max_relative_drop=0.1, previous={"NDCG@10": previous, "HR@10": 1.0})
    assert len(found) == fails
    assert all("gate.max_relative_drop=0.1" in text and "0.1800" in text for text in found)


def test_the_drop_is_that_of_the_watched_metric():
    previous = {"NDCG@10": 0.9, "HR@10": 0.31}
    assert failures(max_relative_drop=0.1, metric="HR@10", previous=previous) == []


@pytest.mark.parametrize("previous", [None, {}, {"NDCG@20": 0.9}])
def test_the_first_date_and_a_new_metric_have_nothing_to_drop_from(previous):
    assert failures(max_relative_drop=0.0, previous=previous) == []


def published(lake: Storage, day: int, ndcg: float, **more: Any) -> None:
    run = RunDir(lake, ds=f"2024-03-{day:02d}", run_id="r", identity="i", attempt=f"a{day}")
    run.storage.write_bytes("metrics.json", to_json({"model": {"NDCG@10": ndcg}, **more}))
    run.storage.write_bytes("manifest.json", b"{}")
    append_entry(lake, run, "digest")


def compared_with(lake: Storage, day: int) -> float | None:
    run = RunDir(lake, ds=f"2024-03-{day:02d}", run_id="new", identity="i", attempt="b")
    metrics = previous_metrics(run)
    return None if metrics is None else float(metrics["NDCG@10"])


def test_a_night_is_compared_with_what_is_served_not_with_what_was_rolled_back(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    for day, ndcg in ((1, 0.2), (2, 0.21), (3, 0.9)):
        published(lake, day, ndcg, protocol=PROTOCOL)
    assert compared_with(lake, 4) == 0.9
    append_rollback(lake, 2, attempt="back")
    assert compared_with(lake, 4) == 0.21
    assert compared_with(lake, 3) == 0.21  # the date that is repaired
    assert compared_with(lake, 2) == 0.2
    assert compared_with(lake, 1) is None
    published(lake, 4, 0.22, protocol=PROTOCOL)
    assert compared_with(lake, 5) == 0.22


def test_what_was_served_may_have_been_a_counter_and_is_compared_with_then(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    counters = {"popular": {"NDCG@10": 0.3}, "item-kNN": {"NDCG@10": 0.2}}
    counter = {"name": "popular"}
    published(lake, 1, 0.1, protocol=PROTOCOL, baselines=counters, counter=None)
    assert compared_with(lake, 2) == 0.1
    published(lake, 2, 0.1, protocol=PROTOCOL, baselines=counters, counter=counter)
    assert compared_with(lake, 3) == 0.3


def test_a_night_that_was_measured_by_an_earlier_rule_is_not_compared_with(tmp_path: Path, caplog):
    lake = Storage.of(str(tmp_path))
    published(lake, 1, 0.9)
    assert compared_with(lake, 2) is None
    assert "was measured by an earlier rule" in caplog.text


@pytest.mark.parametrize("gate", [{"floors": {"NDCG@10": 0.0}}, {"max_relative_drop": 1.0}])
def test_with_a_gate_a_night_that_measured_nothing_fails(gate):
    (failure,) = failures({"n": 0, "NDCG@10": 0.0}, **gate)
    assert failure.startswith("no user has a holdout item")
