"""A whole night on S3: onto a lake of version 0.1.0, with rules, broken off in each of its stages.

SIGTERM and Ctrl-C end it within seconds, wherever it is. It says so, and goes on later.
"""

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from lakes import success
from old_lake import CONFIG, ITEMS, NEXT, is_whole, unpack
from signalled import CODES, ended

from diffsasrec.files.storage import Storage, sha256
from diffsasrec.item_tables.audit import FORBIDDEN
from diffsasrec.lake.chain import append_rollback, read_chain
from diffsasrec.lake.run_dir import run_path
from diffsasrec.lake.stages import ITEM_TABLES, STAGES
from jobs.faults.rig.nights import NightProcess, Nights
from jobs.item_tables.checking import broken_tables
from jobs.night.expected_lists import Yardstick
from jobs.night.scoring import night_scoring
from jobs.runs.published_runs import config_of, open_published

pytestmark = [pytest.mark.ray, pytest.mark.night]
RUN = f"runs/ds={NEXT}/broken"
COLD = "item-cold"


class Broken(NamedTuple):
    """A night after the last of the old lake, which lies on S3, as do the log and a rule."""

    nights: Nights
    config: dict[str, Any]
    lake: Storage

    def start(self) -> NightProcess:
        return self.nights.start(self.config, "--run-id", "broken", date=NEXT)


class Continued(NamedTuple):
    lake: Storage
    code: int
    last: dict[str, Any]
    log: str

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.lake.read_bytes(f"{RUN}/manifest.json"))

    def lists(self) -> list[dict[str, Any]]:
        """The rows of all parts that _SUCCESS names, each of which has as many as it says."""
        rows: list[dict[str, Any]] = []
        for file in success(self.lake, NEXT)["files"]:
            part = self.lake.read_table(f"recommendations/ds={NEXT}/{file['path']}").to_pylist()
            assert len(part) == file["rows"]
            rows += part
        assert len(rows) == success(self.lake, NEXT)["rows"]
        return rows


def rules(directory: Path, lake: Storage) -> dict[str, Any]:
    """Rules for what is shown: two items are kept from user 3, each kind shown once.

    Tables of items are made beside the lists; nobody has touched the last item of the kinds yet.
    """
    of_items = [f"kind {n % 7}" for n in range(len(ITEMS))]
    kinds = pd.DataFrame({"item_id": [*ITEMS, COLD], "kind": [*of_items, "kind 3"]})
    kinds.to_csv(directory / "items.csv", index=False)
    banned = pd.DataFrame({"user_id": [3, 3, 4], "item_id": [*ITEMS[:2], "never seen"]})
    banned.to_parquet(directory / "banned.parquet")
    lake.write_bytes("rules/banned.parquet", (directory / "banned.parquet").read_bytes())
    score = {"decode": "multi", "max_per_category": 1, "exclude_path": f"{lake.root}/rules/"}
    return {
        "items": {"path": str(directory / "items.csv"), "category_column": "kind"},
        "score": {**CONFIG["score"], **score, "rest_nights": 2},
        "similar_items": {"k": 4},
        "trending": {"k": 5},
    }


@pytest.fixture(scope="module")
def broken(cluster: dict[str, str], s3: str, tmp_path_factory) -> Broken:
    directory = tmp_path_factory.mktemp("broken")
    unpack(directory)
    lake = Storage.of(f"{s3}/prod")
    for path in (path for path in (directory / "lake").rglob("*") if path.is_file()):
        lake.write_bytes(str(path.relative_to(directory / "lake")), path.read_bytes())
    lake.write_bytes("raw/events.parquet", (directory / "events.parquet").read_bytes())
    config = {
        **CONFIG,
        "lake": lake.root,
        "events": {"path": f"{lake.root}/raw/", "time_unit": "s"},
    }
    config |= rules(directory, lake)
    config["train"] = {"num_workers": 1, "warm_start": True, "every_days": 2}
    config["log_interval"] = 0.05  # a training is seen in its midst
    config["pretrain"] = {**CONFIG["pretrain"], "epochs": 30}
    config["finetune"] = {**CONFIG["finetune"], "epochs": 30, "state_weight": 0.5}
    return Broken(Nights(directory, cluster), config, lake)


@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_ends_each_stage_and_the_next_attempt_goes_on(broken: Broken, stage: str):
    night = broken.start()
    night.wait_for_line(f"{stage}: started")
    if stage == "pretrain":
        night.wait_for_line(" pretrain: step")  # in the midst of a training
    if stage == "refit":  # in its last phase
        night.wait_for_line(" refit-finetune: step")
    number = signal.SIGINT if STAGES.index(stage) % 2 else signal.SIGTERM
    last, log = ended(night, number)
    assert last["stage"] == stage
    outcome = json.loads(broken.lake.read_bytes(f"{RUN}/outcome.json"))
    assert (outcome["exit_code"], outcome["stage"]) == (CODES[number], stage)
    assert outcome["error"] == last["error"]
    before = STAGES[: STAGES.index(stage)]
    assert [name for name in before if f"{name}: already done, skipped" not in log] == list(
        before[-1:] if before and f"{before[-1]}: done in" in log else []
    )


@pytest.fixture(scope="module")
def continued(broken: Broken) -> Continued:
    """After all these signals the same command."""
    return Continued(broken.lake, *broken.start().finish())


def test_after_all_these_signals_the_same_command_publishes_onto_the_old_lake(
    continued: Continued,
):
    assert (continued.code, continued.last["status"]) == (0, "done"), continued.log
    assert "testsecret" not in continued.log
    assert read_chain(continued.lake)[-1].current == {"ds": NEXT, "run_id": "broken"}
    assert is_whole(continued.lake)
    assert len(continued.lists()) == 16


def test_a_night_starts_from_its_weights_and_rests_its_lists(continued: Continued):
    assert continued.last["counts"]["score"]["rested_pairs"] > 0
    assert continued.manifest()["started_from"]["checkpoint"]["run_id"] == "night-01"


def test_rules_hold_for_what_a_night_on_s3_shows(continued: Continued):
    assert continued.last["counts"]["score"]["excluded_pairs"] == 3
    manifest = continued.manifest()
    tables = [f["path"] for f in manifest["files"] if f["path"].startswith("tables/")]
    assert tables == ["tables/exclude/part-00000.parquet", "tables/items.parquet"]
    assert manifest["rules"]["score.exclude_path, item_id"] == {"ids": 3, "known": 2}
    assert manifest["rules"]["score.exclude_path, user_id"] == {"ids": 3, "known": 3}
    assert manifest["rules"]["items.path"]["known"] == len(ITEMS)
    for row in continued.lists():
        shown = [ITEMS.index(item["item_id"]) for item in row["items"]]
        assert len({number % 7 for number in shown}) == len(shown) == 3  # of three kinds
        assert row["user_id"] != 3 or not {*shown} & {0, 1}


def item_tables(lake: Storage, directory: Path) -> list[str]:
    """The tables of items of what is current, as the chain and the manifest name them."""
    current = run_path(**read_chain(lake)[-1].current)
    files = json.loads(lake.read_bytes(f"{current}/manifest.json"))["files"]
    found = [file for file in files if file["path"].startswith(ITEM_TABLES)]
    for file in found:
        data = lake.read_bytes(f"{current}/{file['path']}")
        assert sha256(data) == file["sha256"]
        (directory / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        (directory / file["path"]).write_bytes(data)
    return [file["path"] for file in found]


def test_duckdb_and_polars_read_the_tables_of_items_in_which_the_rules_hold(
    continued: Continued, tmp_path: Path
):
    paths = item_tables(continued.lake, tmp_path)
    assert paths == ["similar_items/part-00000.parquet", "trending/part-00000.parquet"]
    kinds = {item: f"kind {n % 7}" for n, item in enumerate(ITEMS)} | {COLD: "kind 3"}
    similar, trending = (f"read_parquet('{tmp_path}/{name}/*.parquet')" for name in ITEM_TABLES)
    rows = duckdb.connect().execute(f"from {similar} order by item_id, rank").fetchall()
    frame = pl.read_parquet(f"{tmp_path}/similar_items/*.parquet").sort("item_id", "rank")
    assert frame.rows() == rows
    assert {source for item, _, _, _, source in rows if item != COLD} == {"users"}
    assert [row[1:3] + row[4:] for row in rows if row[0] == COLD] == [
        (other, rank, "category")
        for (other,), rank in zip(
            duckdb.connect()
            .execute(f"select item_id from {trending} where category = 'kind 3'")
            .fetchall(),
            (1, 2),
            strict=True,
        )
    ]
    for item in ITEMS:
        shown = [kinds[other] for of, other, *_ in rows if of == item]
        assert 0 < len(shown) == len(set(shown)) <= 4  # one of a kind, as in the lists
    whole = pl.read_parquet(f"{tmp_path}/trending/*.parquet").filter(pl.col("category").is_null())
    assert whole["rank"].to_list() == [1, 2, 3, 4, 5]
    assert len({kinds[item] for item in whole["item_id"]}) == 5
    counts = continued.last["counts"]["score"]
    assert (counts["similar_rows"], counts["similar_items_by_category"]) == (len(rows), 1)
    assert (counts["trending_rows"], counts["trending_categories"]) == (5 + len(ITEMS), 7)


def test_the_audit_looks_at_every_row_of_the_tables_of_items(continued: Continued):
    run, manifest = open_published(continued.lake, None, None)
    config = config_of(manifest)
    yardstick = Yardstick.of(night_scoring(config, run))
    assert broken_tables(config, run, yardstick) == []
    for path in ("similar_items/part-00000.parquet", "trending/part-00000.parquet"):
        table = run.storage.read_table(path)
        wrong = pa.array([COLD] * table.num_rows)  # of which the weights know nothing
        name = table.column_names.index("neighbour_id" if "similar" in path else "item_id")
        run.storage.write_table(path, table.set_column(name, table.schema.field(name), wrong))
        ((where, found),) = broken_tables(config, run, yardstick)
        assert where == path and found[FORBIDDEN] == table.num_rows
        run.storage.write_table(path, table)
    run.storage.delete(["trending/part-00000.parquet"])
    ((where, found),) = broken_tables(config, run, yardstick)
    assert (where, found) == (path, {"file: missing or too many": 1})
    run.storage.write_table(path, table)


def test_a_rollback_takes_the_tables_of_items_back_with_the_lists(
    continued: Continued, tmp_path: Path
):
    last = read_chain(continued.lake)[-1]
    append_rollback(continued.lake, last.number - 1, attempt="back")
    assert item_tables(continued.lake, tmp_path) == []  # the old night had none
    append_rollback(continued.lake, last.number, attempt="forth")
    assert len(item_tables(continued.lake, tmp_path)) == 2
