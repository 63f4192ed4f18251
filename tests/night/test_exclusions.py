"""What users must not be shown tonight, brought to the buckets of the users."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.manifest import manifest_for
from diffsasrec.lake.prune import prune
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import recommendations_schema, sequences_schema
from diffsasrec.score.bucket_lists import asked_rows
from diffsasrec.sequences.buckets import bucket_name, bucket_of
from jobs.night.exclusions import (
    ASKED,
    EXCLUDED,
    count_excluded,
    lately_published,
    rested_lists,
    write_asked,
    write_excluded,
)
from jobs.night.records import Prepared
from jobs.night.rule_effects import match_asked
from jobs.night.scoring import night_scoring
from jobs.night.table_copies import copies_of_run, copy_tables, digest_tables
from jobs.score import count_asked

BUCKETS = 3
USERS = list(range(6))
PREPARED = Prepared(counts={}, num_buckets=BUCKETS, num_items=0, split_time=0, second_cut=0)
NIGHT = RunDir(Storage.of("unset"), ds="2024-03-05", run_id="r", identity="i", attempt="a")


def config(lake: Path, **score: object) -> Config:
    values = {"lake": str(lake), "events": {"path": "log"}, "score": score}
    return Config.model_validate(values)


@pytest.fixture
def night(tmp_path: Path) -> RunDir:
    """The prepared night of six users in three buckets."""
    run = replace(NIGHT, lake=Storage.of(str(tmp_path)))
    buckets = bucket_of(pa.array(USERS), BUCKETS)
    for bucket in range(BUCKETS):
        users = [user for user in USERS if buckets[user] == bucket]
        rows = [
            {"user_id": user, "items": [0], "times": [1], "num_before": 1, "holdout": None}
            for user in users
        ]
        table = pa.Table.from_pylist(rows, schema=sequences_schema(pa.int64()))
        run.storage.write_table(f"sequences/part-{bucket:05}.parquet", table)
    return run


def publish(run: RunDir, ds: str, shown: dict[int, str], run_id: str = "old") -> None:
    """A night in the chain, in which user -> item was shown."""
    earlier = replace(run, ds=ds, run_id=run_id, attempt=f"{ds}-{run_id}")
    rows = [
        {"user_id": user, "items": [{"item_id": item, "score": -1.0, "rank": 1}]}
        for user, item in shown.items()
    ]
    table = pa.Table.from_pylist(rows, schema=recommendations_schema(pa.int64(), pa.string()))
    file = earlier.storage.write_table("recommendations/part-00000.parquet", table)
    content = {"files": [file], "model_version": "m", "identity": ds}
    append_entry(run.lake, earlier, manifest_for(earlier, content)[1])


def pairs_of(run: RunDir) -> dict[int, list[tuple[str, int]]]:
    """user -> items and rules, as they lie in the bucket of the user."""
    found: dict[int, list[tuple[str, int]]] = {}
    for bucket in range(BUCKETS):
        path = f"{EXCLUDED}/part-{bucket:05}.parquet"
        if run.storage.exists(path):
            for row in run.storage.read_table(path).to_pylist():
                assert bucket_of(pa.array([row["user_id"]]), BUCKETS) == [bucket]
                found.setdefault(row["user_id"], []).append((row["item_id"], row["rule"]))
    return found


def test_pairs_of_files_and_of_nights_come_to_the_buckets_of_their_users(cluster, night, tmp_path):
    (tmp_path / "tables").mkdir()
    pq.write_table(
        pa.table({"user_id": [4, 99, 1], "item_id": ["b", "b", "a"]}),
        tmp_path / "tables" / "one.parquet",
    )
    (tmp_path / "tables" / "two.csv").write_text("item_id,user_id\na,1\nc,1\nd,\nd,01\n")
    publish(night, "2024-03-03", {1: "c", 2: "d"})
    publish(night, "2024-03-04", {3: "superseded"})
    publish(night, "2024-03-04", {3: "e"}, run_id="again")
    settings = config(tmp_path, exclude_path=str(tmp_path / "tables"), rest_nights=2)
    settle(night.lake, grace=0)
    # the lists of the first night lie where its date shows them, and nowhere else any more
    assert prune(night.lake, keep=1, grace=0) == [
        "runs/ds=2024-03-04/old",
        "runs/ds=2024-03-03/old",
    ]
    night = resting(night, 2)
    night = replace(night, tables=digest_tables(settings))
    copy_tables(settings, night)
    write_excluded(night, PREPARED)
    excluded, rested = 0, 1
    # user 99 has no bucket file that knows it, 01 is no integer's spelling
    assert pairs_of(night) | {99: None} == {
        1: [("a", excluded), ("a", excluded), ("c", excluded), ("c", rested)],
        2: [("d", rested)],
        3: [("e", rested)],
        4: [("b", excluded)],
        99: None,
    }
    counts = [count_excluded(bucket, night.storage) for bucket in range(BUCKETS)]
    assert sum(counts[1:], counts[0]) == {"excluded_pairs": 4, "rested_pairs": 3}


def test_without_rules_nothing_is_written(night, tmp_path):
    write_excluded(night, PREPARED)
    assert pairs_of(night) == {} and count_excluded(0, night.storage) == {}


def resting(run: RunDir, nights: int) -> RunDir:
    return replace(run, rested=lately_published(run.lake, run.ds, nights))


def test_a_night_of_rest_whose_lists_are_gone_is_refused_with_what_is_left(night):
    for ds in ("2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04"):
        publish(night, ds, {1: "a"})
    settle(night.lake, grace=0)
    prune(night.lake, keep=1, grace=0)
    assert len(rested_lists(resting(night, 4))) == 4
    night.lake.delete_tree("recommendations/ds=2024-03-02")
    assert len(rested_lists(resting(night, 2))) == 2
    with pytest.raises(ConfigError, match=r"rest_nights needs the lists of .*03-02.*nights=2 "):
        rested_lists(resting(night, 4))


def test_nights_of_rest_are_published_dates_before_the_run_and_what_they_show_now(night):
    for ds, run_id in (("2024-03-01", "x"), ("2024-03-03", "x"), ("2024-03-03", "y")):
        publish(night, ds, {}, run_id)
    publish(night, "2024-03-05", {})
    publish(night, "2024-03-06", {})
    of = lately_published
    assert of(night.lake, night.ds, 0) == ()
    assert of(night.lake, night.ds, 1) == ("runs/ds=2024-03-03/y",)
    assert of(night.lake, night.ds, 9) == ("runs/ds=2024-03-01/x", "runs/ds=2024-03-03/y")


def test_the_users_of_a_table_are_the_rows_of_their_buckets(night, tmp_path):
    (tmp_path / "users.csv").write_text("user_id\n4\n1\n99\n4\n05\n\n0\n")
    settings = config(tmp_path, users_path=str(tmp_path / "users.csv"))
    night = replace(night, tables=digest_tables(settings))
    copy_tables(settings, night)
    write_asked(night, PREPARED)
    found = match_asked(night, copies_of_run(night.storage)["users"], BUCKETS)
    assert (found.ids, found.known, sorted(found.unknown)) == (5, 3, ["'05'", "'99'"])
    scoring = night_scoring(settings, night)
    rows = [asked_rows(scoring, bucket_name(bucket)) for bucket in range(BUCKETS)]
    assert sorted(pa.concat_tables(rows)["user_id"].to_pylist()) == [0, 1, 4]
    counts = count_asked(night, scoring, BUCKETS, len(USERS))
    assert counts == {"asked": 5, "asked_unknown": 2, "not_asked": 3}


def test_without_a_table_of_users_everyone_gets_a_list(night, tmp_path):
    write_asked(night, PREPARED)
    scoring = night_scoring(config(tmp_path), night)
    assert scoring.asked == "" and not night.storage.list(ASKED)
    assert sum(asked_rows(scoring, bucket_name(b)).num_rows for b in range(BUCKETS)) == len(USERS)
    assert count_asked(night, scoring, BUCKETS, len(USERS)) == {}
