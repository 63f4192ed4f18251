"""A bucket whose scoring ended its process: what the next tries do about it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from buckets import (
    CONFIG,
    ITEMS,
    POPULAR,
    SCORING,
    SIMILAR,
    TRENDS,
    USERS,
    VOCAB,
    checkpoint_of,
    sequences,
)

from diffsasrec.counters.tables import create_similar
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.patience import Patience
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import save_checkpoint, save_tensors
from diffsasrec.score.actors import (
    MOST_DEATHS,
    Scorer,
    begin_try,
    end_open,
    end_tries,
    unscored_buckets,
)
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.list_maker import ListMaker
from jobs.faults.rig.nights import injected
from jobs.faults.rig.proxy import run_proxy, seeded
from jobs.faults.rig.s3_server import aws_variables
from jobs.night.expected_lists import Yardstick, audit_file
from jobs.night.item_counts import sample_buckets
from jobs.night.scoring import name_quarantined

NAME = "part-00000.parquet"


@pytest.fixture
def scoring(tmp_path: Path) -> Scoring:
    """Of a run directory with one bucket."""
    run = Storage.of(str(tmp_path))
    model = checkpoint_of(VOCAB).model
    save_checkpoint(
        run.sub("checkpoint"),
        weights=dict(model.named_parameters()),
        config=CONFIG,
        vocab=VOCAB,
        counts=np.full(8, 9),
        trained_before=200,
    )
    run.write_table(f"vocab/{NAME}", VOCAB)
    run.write_table(f"sequences/{NAME}", sequences())
    run.write_table("state/popular.parquet", pa.table({"log_share": POPULAR}))
    save_tensors(run, "state/trends.safetensors", {"trends": torch.from_numpy(TRENDS)}, {})
    create_similar(run, "state/similar.safetensors", SIMILAR)
    return replace(SCORING, run=run)


def score_after(scoring: Scoring, num_deaths: int) -> dict[str, list[int]]:
    """What an actor says of the bucket after so many tries that did not end."""
    for _ in range(num_deaths):
        begin_try(scoring, NAME)
    return Scorer(scoring, "cpu")(pa.table({"bucket": [0]})).to_pydict()


def lists(scoring: Scoring) -> dict[int, dict]:
    rows = scoring.run.read_table(f"recommendations/{NAME}").to_pylist()
    return {row["user_id"]: row for row in rows}


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_try_knows_how_many_before_it_did_not_end(scoring, store, request):
    if store == "s3":
        run = Storage.of(f"{request.getfixturevalue('s3')}/tries")
        scoring = replace(scoring, run=run)
    assert [begin_try(scoring, NAME), begin_try(scoring, NAME)] == [0, 1]
    end_tries(scoring, NAME, 1)
    assert begin_try(scoring, NAME) == 0


def test_too_many_tries_are_an_error_that_names_the_bucket_and_is_said_once(scoring):
    for _ in range(MOST_DEATHS):
        begin_try(scoring, NAME)
    with pytest.raises(InfrastructureError, match=f"sequences/{NAME} ended {MOST_DEATHS} times"):
        begin_try(scoring, NAME)
    assert begin_try(scoring, NAME) == 0  # with more memory nobody has to delete anything first


def test_a_disk_that_takes_no_lists_is_no_death(scoring):
    in_the_way = Path(scoring.run.root) / "recommendations"
    in_the_way.write_text("a file")
    for _ in range(MOST_DEATHS + 1):
        with pytest.raises(InfrastructureError, match="a part of the path is a file"):
            score_after(scoring, 0)
    in_the_way.unlink()
    assert score_after(scoring, 0)["quarantined"] == [0]
    assert scoring.run.list("state/tries") == []


def test_a_store_that_takes_no_lists_is_no_death(scoring, s3, tmp_path):
    def refuse_lists(number: int, method: str, path: str) -> str | None:
        return "slow_down" if method == "PUT" and "/recommendations/" in path else None

    quick = Patience(attempts=2, pause=0.01)
    with (
        run_proxy(os.environ["AWS_ENDPOINT_URL"], refuse_lists) as proxy,
        aws_variables(proxy.endpoint),
    ):
        run = Storage(f"{s3}/{tmp_path.name}", quick)
        for info in scoring.run.list():
            run.write_bytes(info.path, scoring.run.read_bytes(info.path))
        on_store = replace(scoring, run=run)
        for _ in range(MOST_DEATHS + 1):
            with pytest.raises(InfrastructureError, match="SlowDown"):
                score_after(on_store, 0)
        proxy.plan = seeded(0)
        assert score_after(on_store, 0)["quarantined"] == [0]


def test_a_run_that_ends_takes_back_its_open_tries_and_no_others(scoring):
    for name, whose in ((NAME, "mine"), (NAME, "mine"), ("part-00001.parquet", "another's")):
        begin_try(scoring, name, whose)
    end_open(scoring, "mine")
    left = [info.path for info in scoring.run.list("state/tries")]
    assert left == [f"state/tries/{NAME}.0", "state/tries/part-00001.parquet.0"]


@pytest.mark.process
def test_after_two_deaths_child_processes_make_the_same_bytes(scoring):
    score_after(scoring, 0)
    undisturbed = scoring.run.read_bytes(f"recommendations/{NAME}")
    scoring.run.delete([f"recommendations/{NAME}"])
    assert score_after(scoring, 2)["quarantined"] == [0]
    assert scoring.run.read_bytes(f"recommendations/{NAME}") == undisturbed
    assert scoring.run.list("state/tries") == []


@pytest.mark.process
def test_a_user_who_ends_every_process_gets_the_fallback_and_is_named(scoring, monkeypatch):
    score_after(scoring, 0)
    undisturbed = lists(scoring)
    scoring.run.delete([f"recommendations/{NAME}"])
    for name, value in injected(users=[1]).items():
        monkeypatch.setenv(name, value)  # of the child processes: this one runs already
    assert score_after(scoring, 2)["quarantined"] == [1]
    others = lists(scoring)
    unscored = others.pop(1)
    del undisturbed[1]
    assert {u: [i["item_id"] for i in row["items"]] for u, row in others.items()} == {
        u: [i["item_id"] for i in row["items"]] for u, row in undisturbed.items()
    }
    # the more popular a to e were seen
    assert [item["item_id"] for item in unscored["items"]] == ["f", "g", "h"]
    assert (unscored["source"], unscored["history_len"]) == ("popular", 5)
    assert audit_file(0, scoring, Yardstick.of(scoring))[1] == {}
    assert name_quarantined(0, scoring) == 1
    (quarantined,) = scoring.run.read_tables("recommendations_quarantine").to_pylist()
    assert quarantined == {
        "user_id": 1,
        "reason": "scoring ended the process, or was out of memory",
    }


def quarantine_in_vain(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that takes user 1 out and does not come to write the lists."""
    in_the_way = Path(scoring.run.root) / "recommendations"
    in_the_way.write_text("a file")
    with monkeypatch.context() as during:
        for name, value in injected(users=[1]).items():
            during.setenv(name, value)
        with pytest.raises(InfrastructureError, match="is a file"):
            score_after(scoring, 2)
    in_the_way.unlink()


@pytest.mark.process
def test_the_quarantine_of_an_attempt_that_wrote_no_lists_counts_nothing(scoring, monkeypatch):
    quarantine_in_vain(scoring, monkeypatch)
    score_after(scoring, 0)
    assert {row["source"] for user, row in lists(scoring).items() if user in (1, 2)} == {"model"}
    assert audit_file(0, scoring, Yardstick.of(scoring))[1] == {}
    scoring.run.write_bytes(f"recommendations_quarantine/{NAME}", b"left by an earlier version")
    assert name_quarantined(0, scoring) == 0
    assert scoring.run.list("recommendations_quarantine") == []


@pytest.mark.process
def test_of_two_attempts_that_overlap_the_lists_that_stay_say_who_is_quarantined(
    scoring, monkeypatch
):
    score_after(scoring, 0)
    for name, value in injected(users=[1]).items():
        monkeypatch.setenv(name, value)
    assert score_after(scoring, 2)["quarantined"] == [1]  # too late
    assert lists(scoring)[1]["source"] == "model"
    assert audit_file(0, scoring, Yardstick.of(scoring))[1] == {}


@pytest.mark.parametrize("most", [3, 1])
def test_a_user_for_whom_memory_runs_out_gets_the_fallback_and_is_named(scoring, most):
    # and where only so many users fit at once, all others get their lists
    scorer = Scorer(scoring, "cpu")
    make = scorer._maker.lists

    def lists_of_few(rows: pa.Table, *, fallback: bool = False) -> pa.Table:
        if not fallback and (rows.num_rows > most or 1 in rows["user_id"].to_pylist()):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return make(rows, fallback=fallback)

    score_after(scoring, 0)
    undisturbed = lists(scoring)
    scoring.run.delete([f"recommendations/{NAME}"])
    scorer._maker.lists = lists_of_few  # type: ignore[method-assign, assignment]
    assert scorer(pa.table({"bucket": [0]}))["quarantined"].to_pylist() == [1]
    others = lists(scoring)
    unscored, _ = others.pop(1), undisturbed.pop(1)
    assert (unscored["source"], unscored["history_len"]) == ("popular", 5)
    assert {u: [i["item_id"] for i in row["items"]] for u, row in others.items()} == {
        u: [i["item_id"] for i in row["items"]] for u, row in undisturbed.items()
    }
    assert (
        audit_file(0, scoring, Yardstick.of(scoring))[1] == {} and name_quarantined(0, scoring) == 1
    )
    (quarantined,) = scoring.run.read_tables("recommendations_quarantine").to_pylist()
    assert quarantined["user_id"] == 1 and "out of memory" in quarantined["reason"]
    assert scoring.run.list("state/tries") == []


@pytest.mark.process
def test_more_such_users_than_allowed_stop_the_run(scoring, monkeypatch):
    both = [user for user in USERS if user[0] in (2, 5)]
    scoring.run.write_table(f"sequences/{NAME}", sequences(both))
    for name, value in injected(users=[2, 5]).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InfrastructureError, match=r"score\.max_quarantined_users=1"):
        score_after(replace(scoring, max_quarantined_users=1), 2)


def test_lists_explore_only_where_it_was_counted_what_lists_show(scoring):
    exploring = replace(scoring, decoding=scoring.decoding.model_copy(update={"decode": "multi"}))
    with pytest.raises(
        ConfigError, match=r"state has no shown\.safetensors: .*score\.explore_items"
    ):
        score_after(exploring, 0)
    shown = torch.full((VOCAB.num_rows,), 1.0)
    save_tensors(scoring.run, "state/shown.safetensors", {"shown": shown}, {})
    score_after(exploring, 0)
    assert all(len(row["items"]) == 3 for row in lists(scoring).values())


@pytest.mark.parametrize(
    ("num_buckets", "num_users", "expected"),
    [(1, 5, 1), (16, 5_000, 16), (16, 10_001, 16), (16, 100_000, 2), (1000, 10**9, 1), (8, 0, 8)],
)
def test_a_sample_has_ten_thousand_users_in_whole_buckets(num_buckets, num_users, expected):
    assert sample_buckets(num_buckets, num_users) == expected


def test_lists_that_are_there_are_not_made_again_and_never_overwritten(scoring):
    assert unscored_buckets(scoring, 2) == [0, 1]
    scoring.run.create(f"recommendations/{NAME}", b"of another attempt")
    assert unscored_buckets(scoring, 2) == [1]
    score_after(scoring, 0)
    assert scoring.run.read_bytes(f"recommendations/{NAME}") == b"of another attempt"


def test_the_audit_of_a_bucket_reads_no_weights_and_no_vocabulary(scoring):
    score_after(scoring, 0)
    yardstick = Yardstick.of(scoring)
    scoring.run.delete_tree(scoring.checkpoint)
    scoring.run.delete_tree("vocab")
    assert audit_file(0, scoring, yardstick)[1] == {}


def test_lists_do_not_depend_on_the_order_of_the_vocabulary_of_the_run(scoring: Scoring):
    scoring = replace(scoring, decoding=scoring.decoding.model_copy(update={"filter_seen": False}))
    expected = ListMaker(scoring, "cpu").lists(sequences()).to_pylist()
    run = scoring.run
    index_V = np.arange(8, dtype=np.int32)[::-1].copy()
    reversed_vocab = VOCAB.set_column(0, "item_id", VOCAB["item_id"].take(pa.array(index_V)))
    run.write_table(f"vocab/{NAME}", reversed_vocab)
    run.write_table("state/popular.parquet", pa.table({"log_share": POPULAR[::-1]}))
    trends = torch.from_numpy(TRENDS[::-1].copy())
    save_tensors(run, "state/trends.safetensors", {"trends": trends}, {})
    run.delete(["state/similar.safetensors"])
    create_similar(run, "state/similar.safetensors", SIMILAR.reindexed(index_V, 8))
    made = ListMaker(scoring, "cpu").lists(sequences(items=ITEMS[::-1])).to_pylist()
    for row, other in zip(expected, made, strict=True):
        assert [i["item_id"] for i in row["items"]] == [i["item_id"] for i in other["items"]]
        assert [i["score"] for i in row["items"]] == pytest.approx(
            [i["score"] for i in other["items"]], abs=1e-5
        )
