"""One bucket of six users: its lists, its fallbacks, its rules."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffsasrec.checkpoint import Checkpoint
from diffsasrec.config import ModelConfig, ScoreConfig
from diffsasrec.counters import NUM_TRENDS
from diffsasrec.decode import CommitRule
from diffsasrec.errors import ConfigError
from diffsasrec.explore import Exploration
from diffsasrec.lists import (
    Scoring,
    allowed_items,
    known_history,
    known_trends,
    log_shares,
    popular_list,
    score_bucket,
)
from diffsasrec.model import SequenceModel
from diffsasrec.recommend import Decoding, Moment, Recommender
from diffsasrec.schema import recommendations_schema, sequences_schema
from diffsasrec.storage import Storage, parquet_bytes
from jobs.score import decoding_of

SPLIT = 100
ITEMS = ["a", "b", "c", "d", "e", "f", "g", "h"]
CONFIG = ModelConfig(
    kind="diffusion", hidden_size=16, num_blocks=1, num_heads=2, max_seq_len=3, num_slots=3
)
# user, items, times, holdout: in the order of the bucket, which is that of user_id
USERS: list[tuple[int, str, list[int], int | None]] = [
    (1, "abcde", [10, 20, 30, 110, 120], 3),
    (2, "ab", [10, 20], None),
    (3, "", [], None),
    (5, "hgf", [50, 100, 130], 1),
    (8, "c", [150], None),
    (9, "", [], None),
]
POPULAR = np.log(np.array([1, 2, 8, 4, 4, 1, 1, 1]) / 22).astype(np.float32)
SCORING = Scoring(
    run=Storage.of("."),
    checkpoint="checkpoint",
    output="recommendations",
    users="all",
    query_time=200,
    state="state",
    active_since=None,
    deny_path=None,
    allow_path=None,
    decoding=Decoding(k=3),
)
HOLDOUT = replace(SCORING, users="holdout", query_time=SPLIT)


def vocabulary(ids: Sequence[Any], item_type: pa.DataType, counts: Sequence[int]) -> pa.Table:
    columns = {
        "item_id": pa.array(ids, item_type),
        "index": pa.array(range(len(ids)), pa.int32()),
        "count": pa.array(counts, pa.int64()),
    }
    return pa.table(columns)


VOCAB = vocabulary(ITEMS, pa.string(), [9] * 8)


def checkpoint_of(vocab: pa.Table, weights: torch.Tensor | None = None) -> Checkpoint:
    model = SequenceModel(CONFIG, vocab.num_rows).eval()
    if weights is not None:
        model.load_state_dict(checkpoint_of(VOCAB).model.state_dict() | {"items.weight": weights})
    return Checkpoint(model=model, vocab=vocab, trained_before=SPLIT, model_version="0123456789ab")


CHECKPOINT = checkpoint_of(VOCAB)


def sequences(users=USERS, *, items=ITEMS, user_type=None, name=lambda user: user) -> pa.Table:
    rows = [
        {
            "user_id": name(user),
            "items": [items.index(item) for item in history],
            "times": times,
            "num_before": sum(time < SPLIT for time in times),
            "holdout": holdout,
        }
        for user, history, times, holdout in users
    ]
    return pa.Table.from_pylist(rows, sequences_schema(user_type or pa.int64()))


TRENDS = np.random.default_rng(0).normal(size=(8, NUM_TRENDS)).astype(np.float32)


def score(
    table=None,
    *,
    scoring=SCORING,
    allowed=None,
    trends=TRENDS,
    vocab=VOCAB,
    checkpoint=CHECKPOINT,
):
    allowed = checkpoint.candidates() if allowed is None else allowed
    return score_bucket(
        sequences() if table is None else table,
        vocab,
        checkpoint,
        scoring,
        recommender=recommender_of(
            checkpoint, scoring, allowed, known_trends(trends, vocab, checkpoint.vocab)
        ),
        allowed=allowed,
        popular=None if scoring.users == "holdout" else POPULAR,
    )


def recommender_of(checkpoint, scoring, allowed, trends) -> Recommender:
    moment = Moment(scoring.query_time, trends)
    return Recommender(checkpoint.model, moment=moment, allowed=allowed, decoding=scoring.decoding)


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
        allowed=allowed,
        popular=popular,
    ).to_pylist()
    assert (row["source"], row["history_len"]) == ("popular", 2)
    assert [item["item_id"] for item in row["items"]] == ["c", "d", "e"]


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
    (row,) = score(sequences(USERS[:1]), scoring=replace(HOLDOUT, decoding=Decoding(k=8)))[
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
        allowed=checkpoint.candidates(),
        popular=None,
    )
    own = score(sequences([(1, "abc", [1, 3, 4], None), (2, "h", [7], None)]))
    assert item_ids(table) == item_ids(own)
    assert table["history_len"].to_pylist() == [5, 1]  # of the user, not of the model


def test_seen_items_are_filtered_under_another_vocabulary():
    scoring = replace(SCORING, decoding=Decoding(k=8))
    lists = item_ids(score(scoring=scoring, checkpoint=permuted_checkpoint()))
    for user, history, *_ in USERS[:2]:
        assert sorted([*lists[user], *history]) == ITEMS


def test_known_histories_keep_the_times_of_the_items_that_are_left():
    run_vocab = vocabulary(["new", *ITEMS], pa.string(), [9] * 9)
    target = vocabulary(["c", "a"], pa.string(), [9] * 2)
    items, times, offsets = known_history(
        np.array([1, 0, 3, 2, 3], np.int32),  # a, new, c; b, c
        np.array([10, 20, 30, 40, 50]),
        np.array([0, 3, 5]),
        run_vocab,
        target,
    )
    assert items.tolist() == [1, 0, 0] and times.tolist() == [10, 30, 50]
    assert offsets.tolist() == [0, 2, 3]


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


# --- what may be recommended ---


def write_rules(path: Path, ids: list[Any]) -> str:
    if path.suffix == ".csv":
        path.write_text("\n".join(["note,item_id", *(f"n,{item}" for item in ids)]) + "\n")
    else:
        pq.write_table(pa.table({"item_id": ids, "note": ["n"] * len(ids)}), path)
    return str(path)


def allowed(vocab: pa.Table, deny: str | None = None, allow: str | None = None) -> list[Any]:
    checkpoint = replace(CHECKPOINT, vocab=vocab)
    mask = allowed_items(checkpoint, deny_path=deny, allow_path=allow)
    return vocab.filter(pa.array(mask))["item_id"].to_pylist()


def test_items_that_were_never_trained_on_are_not_allowed():
    assert allowed(vocabulary(["a", "b", "c"], pa.string(), [1, 0, 2])) == ["a", "c"]


@pytest.mark.parametrize("name", ["rules.parquet", "rules.csv"])
def test_deny_takes_out_and_allow_leaves_in_also_together(tmp_path, name):
    one = write_rules(tmp_path / f"one-{name}", ["b", "d", "unheard of"])
    two = write_rules(tmp_path / f"two-{name}", ["a", "b", "unheard of"])
    assert allowed(VOCAB, deny=one) == ["a", "c", "e", "f", "g", "h"]
    assert allowed(VOCAB, allow=two) == ["a", "b"]
    assert allowed(VOCAB, deny=one, allow=two) == ["a"]


def test_leading_zeros_in_a_csv_are_part_of_a_string_id(tmp_path):
    vocab = vocabulary(["7", "007", "8"], pa.string(), [1, 1, 1])
    assert allowed(vocab, deny=write_rules(tmp_path / "deny.csv", ["007"])) == ["7", "8"]
    assert allowed(vocab, allow=write_rules(tmp_path / "allow.csv", ["7"])) == ["7"]


@pytest.mark.parametrize("item_type", [pa.int32(), pa.int64(), pa.uint64()], ids=str)
def test_integer_ids_are_found_in_a_csv_by_their_one_spelling(tmp_path, item_type):
    vocab = vocabulary([7, 8, 77], item_type, [1, 1, 1])
    assert allowed(vocab, deny=write_rules(tmp_path / "deny.csv", ["7", "008"])) == [8, 77]


@pytest.mark.parametrize("item_type", [pa.int32(), pa.uint64()], ids=str)
def test_integers_of_another_width_are_the_same_ids(tmp_path, item_type):
    vocab = vocabulary([7, 8], item_type, [1, 1])
    path = write_rules(tmp_path / "deny.parquet", pa.array([8, None], pa.int16()))
    assert allowed(vocab, deny=path) == [7]


@pytest.mark.parametrize("key", ["deny", "allow"])
@pytest.mark.parametrize("name", ["rules.parquet", "rules.csv"])
def test_a_rule_table_that_is_missing_or_has_no_item_id_names_its_key(tmp_path, name, key):
    path = tmp_path / name
    with pytest.raises(ConfigError, match=f"score.{key}_path=.*{name} can't be read"):
        allowed(VOCAB, **{key: str(path)})
    table = pa.table({"item": ["a"]})
    path.write_text("item\na\n") if path.suffix == ".csv" else pq.write_table(table, path)
    with pytest.raises(ConfigError, match=f"score.{key}_path=.*{name} has no column item_id"):
        allowed(VOCAB, **{key: str(path)})


def test_rules_that_are_no_ids_are_refused(tmp_path):
    path = write_rules(tmp_path / "deny.parquet", [1.0, 2.0])
    with pytest.raises(ConfigError, match=r"score\.deny_path=.* item_id is double"):
        allowed(VOCAB, deny=path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "deny.parquet").write_text("item_id\na\n")
    with pytest.raises(ConfigError, match=r"score\.deny_path=.* can't be read"):
        allowed(VOCAB, deny=str(tmp_path / "deny.parquet"))


# --- popularity ---


def test_log_shares_order_by_recent_counts_and_the_untouched_by_all_time():
    shares = log_shares(np.array([0, 5, 0, 1, 0]), np.array([90, 5, 4, 1, 0]))
    assert np.argsort(-shares, kind="stable").tolist() == [1, 3, 0, 2, 4]
    assert shares[4] == -np.inf and np.isfinite(shares[:4]).all()
    assert np.exp(shares).sum() == pytest.approx(1)


def test_one_event_is_spread_by_the_shares_of_all_time():
    shares = log_shares(np.array([3, 0]), np.array([3, 1]))
    assert np.exp(shares) == pytest.approx([3.75 / 4, 0.25 / 4])


def test_an_empty_window_leaves_the_shares_of_all_time():
    shares = log_shares(np.zeros(3, np.int64), np.array([6, 0, 2]))
    assert np.exp(shares) == pytest.approx([0.75, 0, 0.25])


def test_without_any_event_nothing_is_popular():
    assert (log_shares(np.zeros(2, np.int64), np.zeros(2, np.int64)) == -np.inf).all()


def test_equally_popular_items_are_ordered_by_index():
    equal = np.full(8, -1, np.float32)
    items, scores = popular_list(equal, VOCAB, VOCAB, np.ones(8, bool), k=4)
    assert items.tolist() == [0, 1, 2, 3] and scores.tolist() == [-1.0] * 4


def test_the_popular_list_is_shorter_when_few_are_allowed_or_ever_occurred():
    popular = np.array([-1, -np.inf, -2, -3, -4, -5, -6, -7], np.float32)
    items, scores = popular_list(popular, VOCAB, VOCAB, np.arange(8) < 3, k=4)
    assert items.tolist() == [0, 2, -1, -1]
    assert scores.tolist() == [-1.0, -2.0, -np.inf, -np.inf]
    assert popular_list(popular, VOCAB, VOCAB, np.ones(8, bool), k=10)[0].tolist()[7:] == [-1] * 3


def test_the_popular_list_has_the_indices_of_the_checkpoint():
    vocab = vocabulary(["x", "h", "c", "a"], pa.string(), [9] * 4)
    items, scores = popular_list(POPULAR, VOCAB, vocab, np.ones(4, bool), k=4)
    assert items.tolist() == [2, 1, 3, -1]  # c, then h and a alike; x is unknown to the run
    assert scores.tolist() == [POPULAR[2], POPULAR[7], POPULAR[0], -np.inf]


def test_every_setting_of_decoding_reaches_it():
    rule = {"commit": "threshold", "threshold": 0.11, "threshold_decay": 0.12}
    explore = {"num_items": 3, "lift": 0.15, "temperature": 0.16}
    rest = {"k": 7, "decode": "multi", "rank": "slot", "steps": 6}
    rest |= {"lookahead": 0.18, "shortlist": 19, "filter_seen": False, "batch_size": 5}
    explored = {"explore_items": 3, "explore_lift": 0.15, "explore_temperature": 0.16}
    expected = Decoding(**rest, rule=CommitRule(**rule), exploration=Exploration(**explore))
    assert decoding_of(ScoreConfig(**rest, **rule, **explored)) == expected
    assert decoding_of(ScoreConfig()) == Decoding(k=10)
