"""One bucket of six users: its lists, its fallbacks, its rules."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from buckets import (
    CHECKPOINT,
    HOLDOUT,
    ITEMS,
    POPULAR,
    SCORING,
    TRENDS,
    USERS,
    VOCAB,
    checkpoint_of,
    sequences,
    vocabulary,
)

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.files.storage import parquet_bytes
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.schema import recommendations_schema
from diffsasrec.score.audit import audit_bucket
from diffsasrec.score.bucket_lists import (
    known_histories,
    known_trends,
    measured_items,
    score_bucket,
)
from diffsasrec.score.fallback import PopularLists
from diffsasrec.sequences.histories import Histories


def score(
    table=None,
    *,
    scoring=SCORING,
    allowed=None,
    trends=TRENDS,
    vocab=VOCAB,
    checkpoint=CHECKPOINT,
    cap=None,
    known=None,
):
    allowed = checkpoint.candidates() if allowed is None else allowed
    return score_bucket(
        sequences() if table is None else table,
        vocab,
        checkpoint,
        scoring,
        recommender=recommender_of(
            checkpoint, scoring, allowed, known_trends(trends, vocab, checkpoint.vocab), cap
        ),
        popular=None
        if scoring.users == "holdout"
        else PopularLists(POPULAR, vocab, checkpoint.vocab, allowed=allowed, cap=cap),
        known=known,
    )


def recommender_of(checkpoint, scoring, allowed, trends, cap=None) -> Recommender:
    return Recommender(
        checkpoint.model,
        moment=Moment(scoring.query_time, trends),
        allowed=allowed,
        cap=cap,
        decoding=scoring.decoding,
    )


def item_ids(table: pa.Table) -> dict[Any, list[Any]]:
    return {row["user_id"]: [x["item_id"] for x in row["items"]] for row in table.to_pylist()}


# --- the lists of a bucket ---


def test_the_table_has_the_schema_of_recommendations_in_the_order_of_the_bucket():
    table = score()
    assert table.schema == recommendations_schema(pa.int64(), pa.string())
    assert table["user_id"].to_pylist() == [1, 2, 3, 5, 8, 9]
    assert set(table["model_version"].to_pylist()) == {"0123456789ab"}
    assert all(column.null_count == 0 for column in table.columns)


def test_ranks_count_from_1_and_scores_are_finite_and_fall():
    for row in score().to_pylist():
        scores = [item["score"] for item in row["items"]]
        assert [item["rank"] for item in row["items"]] == [1, 2, 3]
        assert np.isfinite(scores).all() and scores == sorted(scores, reverse=True)
        assert max(scores) <= 0  # log-probabilities


def test_the_same_bucket_gives_the_same_bytes():
    assert parquet_bytes(score()) == parquet_bytes(score())


def test_seen_items_are_filtered_by_the_whole_history():
    # the model reads three events, user 1 has five: f, g and h are left
    assert sorted(item_ids(score())[1]) == ["f", "g", "h"]


def test_history_len_counts_the_whole_history():
    assert score()["history_len"].to_pylist() == [5, 2, 0, 3, 1, 0]


def test_a_list_is_shorter_where_no_candidate_is_left():
    allowed = np.isin(ITEMS, ["a", "c", "f"])
    lists = item_ids(score(allowed=allowed))
    assert {user: len(items) for user, items in lists.items()} == {
        1: 1,
        2: 2,
        3: 3,
        5: 2,
        8: 2,
        9: 3,
    }


def test_users_without_candidates_keep_their_row():
    table = score(allowed=np.zeros(8, bool))
    assert table["items"].to_pylist() == [[]] * 6
    assert table["user_id"].to_pylist() == [1, 2, 3, 5, 8, 9]


def test_a_bucket_without_users_is_an_empty_table():
    table = score(sequences([]))
    assert table.num_rows == 0
    assert table.schema == recommendations_schema(pa.int64(), pa.string())


# --- users without a history ---


def test_only_users_without_a_history_get_the_popular_list():
    expected = ["model", "model", "popular", "model", "model", "popular"]
    assert score()["source"].to_pylist() == expected


def test_the_popular_list_is_ordered_by_share_ties_by_index():
    (row,) = score(sequences([(3, "", [], None)])).to_pylist()
    assert [item["item_id"] for item in row["items"]] == ["c", "d", "e"]
    assert [item["score"] for item in row["items"]] == pytest.approx(POPULAR[[2, 3, 4]].tolist())


def test_the_popular_list_has_only_what_is_allowed():
    lists = item_ids(score(allowed=~np.isin(ITEMS, ["c", "e"])))
    assert lists[3] == lists[9] == ["d", "b", "a"]


def test_a_history_that_the_checkpoint_does_not_know_is_none():
    run_items = [*ITEMS, "new"]
    table = sequences([(1, ["new", "new"], [10, 20], None)], items=run_items)
    popular = np.r_[POPULAR, np.float32(0)]  # nothing is as popular as the new item
    vocab = vocabulary(run_items, pa.string(), [9] * 9)
    allowed = np.ones(8, bool)
    (row,) = score_bucket(
        table,
        vocab,
        CHECKPOINT,
        SCORING,
        recommender=recommender_of(CHECKPOINT, SCORING, allowed, TRENDS),
        popular=PopularLists(popular, vocab, VOCAB, allowed=allowed, cap=None),
    ).to_pylist()
    assert (row["source"], row["history_len"]) == ("popular", 2)
    assert [item["item_id"] for item in row["items"]] == ["c", "d", "e"]


def test_the_fallback_over_items_that_tonights_log_lacks_is_what_the_audit_expects():
    # the weights know eight items, tonight's log has three of them, and a list five places
    tonight = ["g", "c", "a"]
    table = sequences([(1, "gca", [10, 20, 30], None), (3, "", [], None)], items=tonight)
    vocab = vocabulary(tonight, pa.string(), [9] * 3)
    scoring = replace(SCORING, decoding=DecodingConfig(k=5))
    trends = known_trends(TRENDS[:3], vocab, VOCAB)
    allowed = CHECKPOINT.candidates()
    lists = score_bucket(
        table,
        vocab,
        CHECKPOINT,
        scoring,
        recommender=recommender_of(CHECKPOINT, scoring, allowed, trends),
        popular=PopularLists(POPULAR[:3], vocab, VOCAB, allowed=allowed, cap=None),
    )
    nobody: list[list[int]] = [[], []]
    expected = {
        "user_id": [1, 3],
        "items": pa.array([[6, 2, 0], []], pa.list_(pa.int32())),
        "excluded": pa.array(nobody, pa.list_(pa.int32())),
        "history_len": pa.array([3, 0], pa.int32()),
        "source": ["model", "popular"],
    }
    broken = audit_bucket(
        lists,
        pa.table(expected),
        vocab=VOCAB,
        allowed=allowed,
        k=5,
        filter_seen=True,
        by_score=True,
        model_version="0123456789ab",
    )
    assert broken == {}
    assert item_ids(lists)[3] == ["a", "c", "g", "b", "d"]  # what it lacks comes last, by index


# --- whose lists, as of when ---


def test_only_holdout_users_are_measured_on_what_lies_before_the_split():
    table = score(scoring=HOLDOUT)
    assert table["user_id"].to_pylist() == [1, 5]
    assert table["history_len"].to_pylist() == [3, 1]
    assert table["source"].to_pylist() == ["model", "model"]


def test_events_after_the_split_change_no_list_of_a_holdout_user():
    later = [(1, "abcffh", [10, 20, 30, 111, 112, 113], 3), (5, "hh", [50, 140], 1)]
    assert score(scoring=HOLDOUT).equals(score(sequences(later), scoring=HOLDOUT))
    assert not score(sequences(later)).equals(score(sequences([USERS[0], USERS[3]])))


def test_what_a_holdout_user_has_later_is_not_filtered():
    (row,) = score(sequences(USERS[:1]), scoring=replace(HOLDOUT, decoding=DecodingConfig(k=8)))[
        "items"
    ].to_pylist()
    assert sorted(item["item_id"] for item in row) == ["d", "e", "f", "g", "h"]


@pytest.mark.parametrize(
    ("since", "users"), [(0, [1, 2, 5, 8]), (120, [1, 5, 8]), (130, [5, 8]), (151, [])]
)
def test_users_without_an_event_since_then_are_left_out(since, users):
    table = score(scoring=replace(SCORING, active_since=since))
    assert table["user_id"].to_pylist() == users


def test_an_active_user_is_scored_on_the_whole_history():
    active = score(scoring=replace(SCORING, active_since=125))
    everyone = item_ids(score())
    assert active["history_len"].to_pylist() == [3, 1]
    assert item_ids(active) == {user: everyone[user] for user in (5, 8)}


def test_the_history_of_a_holdout_user_has_no_items_that_are_rare_before_the_split():
    vocab = VOCAB.append_column("count_before", pa.array([2, 2, 1, 0, 0, 0, 0, 2], pa.int64()))
    scoring = replace(HOLDOUT, min_item_count=2)
    known = measured_items(scoring, vocab)
    assert known is not None and known.tolist() == [item in "abh" for item in ITEMS]
    # user 1 has a, b and c before the split, and d after it, which is no holdout then
    users = [(1, "abcda", [10, 20, 30, 110, 120], 4), (5, "ch", [50, 100], None)]
    table = score(sequences(users), scoring=scoring, vocab=vocab, known=known)
    plain = score(sequences([(1, "aba", [10, 20, 120], 2)]), scoring=HOLDOUT)
    assert table["history_len"].to_pylist() == [2]
    assert table.equals(plain)
    assert measured_items(replace(scoring, users="all"), vocab) is None  # what serves knows all


# --- a checkpoint with a vocabulary of its own ---


def permuted_checkpoint() -> Checkpoint:
    """The weights of CHECKPOINT under other indices, and two items that were never trained on."""
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    ids = ["x", *(ITEMS[index] for index in order), "y"]
    vocab = vocabulary(ids, pa.string(), [0, *([9] * 8), 0])
    weights = CHECKPOINT.model.item_weight.detach()
    return checkpoint_of(vocab, torch.cat([weights[:1], weights[order], weights[:1]]))


def test_a_permuted_vocabulary_gives_the_same_lists():
    own, other = score(), score(checkpoint=permuted_checkpoint())
    modelled = [1, 2, 5, 8]
    assert [item_ids(other)[user] for user in modelled] == [item_ids(own)[u] for u in modelled]
    scores = [
        [item["score"] for items in table["items"].to_pylist() for item in items]
        for table in (own, other)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_items_that_the_checkpoint_does_not_know_are_left_out_of_a_history():
    run_items = ["new", *ITEMS]  # every index of the run is another one in the checkpoint
    users = [(1, ["a", "new", "b", "c", "new"], [1, 2, 3, 4, 5], None), (2, "h", [7], None)]
    checkpoint = permuted_checkpoint()
    trends = known_trends(TRENDS, VOCAB, checkpoint.vocab)
    table = score_bucket(
        sequences(users, items=run_items),
        vocabulary(run_items, pa.string(), [9] * 9),
        checkpoint,
        SCORING,
        recommender=recommender_of(checkpoint, SCORING, checkpoint.candidates(), trends),
        popular=None,
    )
    own = score(sequences([(1, "abc", [1, 3, 4], None), (2, "h", [7], None)]))
    assert item_ids(table) == item_ids(own)
    assert table["history_len"].to_pylist() == [5, 1]  # of the user, not of the model


def test_seen_items_are_filtered_under_another_vocabulary():
    scoring = replace(SCORING, decoding=DecodingConfig(k=8))
    lists = item_ids(score(scoring=scoring, checkpoint=permuted_checkpoint()))
    for user, history, *_ in USERS[:2]:
        assert sorted([*lists[user], *history]) == ITEMS


def test_known_histories_keep_the_times_of_the_items_that_are_left():
    run_vocab = vocabulary(["new", *ITEMS], pa.string(), [9] * 9)
    target = vocabulary(["c", "a"], pa.string(), [9] * 2)
    histories = Histories(
        np.array([1, 0, 3, 2, 3], np.int32),  # a, new, c; b, c
        np.array([10, 20, 30, 40, 50]),
        np.array([0, 3, 5]),
    )
    left = known_histories(histories, run_vocab, target)
    assert left.items.tolist() == [1, 0, 0] and left.times.tolist() == [10, 30, 50]
    assert left.offsets.tolist() == [0, 2, 3]


def test_known_trends_are_in_the_order_of_the_checkpoint():
    target = vocabulary(["c", "a"], pa.string(), [9] * 2)
    assert known_trends(TRENDS, VOCAB, target).tolist() == TRENDS[[2, 0]].tolist()
    assert known_trends(TRENDS, VOCAB, VOCAB) is TRENDS


def test_an_item_that_tonights_log_has_nothing_of_is_as_rare_as_the_rarest():
    target = vocabulary(["x", "h", "y"], pa.string(), [9] * 3)
    rarest = TRENDS.min(axis=0).tolist()
    assert known_trends(TRENDS, VOCAB, target).tolist() == [rarest, TRENDS[7].tolist(), rarest]


# --- the query time ---


def test_lists_depend_on_the_query_time_and_on_the_trends_as_of_it():
    at_night = score()
    assert not at_night.equals(score(scoring=replace(SCORING, query_time=10**13)))
    lists = {
        user: items != item_ids(score(trends=TRENDS[::-1].copy()))[user]
        for user, items in item_ids(at_night).items()
    }
    # the popular list is that of the fallback, whatever the trends
    assert not lists[3] and not lists[9] and any(lists.values())


# --- types of ids ---


@pytest.mark.parametrize(
    ("id_type", "name"),
    [
        (pa.int32(), lambda number: -number),
        (pa.uint64(), lambda number: 2**64 - 1 - number),
        (pa.string(), lambda number: f"{number:03}"),
    ],
    ids=["int32", "uint64", "string"],
)
def test_ids_keep_their_type_and_their_value(id_type, name):
    vocab = vocabulary([name(index) for index in range(8)], id_type, [9] * 8)
    table = score(
        sequences(user_type=id_type, name=name),
        vocab=vocab,
        checkpoint=replace(CHECKPOINT, vocab=vocab),
    )
    assert table.schema == recommendations_schema(id_type, id_type)
    expected = item_ids(score())
    assert item_ids(table) == {
        name(user): [name(ITEMS.index(item)) for item in items] for user, items in expected.items()
    }
