"""A lake of version 0.1.0 is settled, gone back in, thinned out, shown, and published onto.

Beside this file, lake-0.1.tar.xz holds what commit 8cace82 made of a log of 16 users in
/srv/recommender, with the configuration below: nights of 2024-02-28, 02-29 and 03-01 with the run
ids night-28, night-29 and night-01, a second run of the last date (again, with seed=1), and a
rollback to entry 3.
"""

import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from lakes import shown, success

from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_rollback, read_chain
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.prune import prune
from jobs.faults.rig.nights import Nights, digests
from jobs.faults.rig.readers import read_chain_end, read_dates
from jobs.report.pages import write_report
from jobs.runs.published_runs import config_if_known, find_run, open_published
from jobs.runs.published_runs import config_of as config_shown
from jobs.show.__main__ import current_lines
from jobs.show.user import user_lines

LAST, NEXT = "2024-03-01", "2024-03-02"
ITEMS = [f"item-{number:02}" for number in range(14)]
CONFIG: dict[str, Any] = {
    "log_interval": 1,
    "events": {"path": "/srv/recommender/events.parquet", "time_unit": "s"},
    "split": {"users_per_bucket": 10},
    "model": {
        "hidden_size": 8,
        "num_blocks": 1,
        "num_heads": 2,
        "max_seq_len": 8,
        "num_slots": 4,
    },
    "pretrain": {"epochs": 1, "batch_size": 16},
    "finetune": {"epochs": 1, "batch_size": 16, "query_times": 3},
    "train": {"num_workers": 1},
    "score": {"k": 3, "filter_seen": False, "num_actors": 1},
    "evaluate": {"ks": [3]},
    "gate": {"metric": "NDCG@3"},
    "publish": {"grace": 0},
}


def unpack(directory: Path) -> None:
    with tarfile.open(Path(__file__).parent / "lake-0.1.tar.xz") as archive:
        archive.extractall(directory, filter="data")


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    unpack(tmp_path)
    return Storage.of(str(tmp_path / "lake"))


def is_whole(lake: Storage) -> bool:
    return not read_chain_end(lake) and not read_dates(lake)


def test_it_is_whole_and_settling_gives_numbers_to_the_parts_of_a_rollback_alone(lake: Storage):
    before = digests(Path(lake.root))
    assert is_whole(lake)
    assert settle(lake, grace=0) == [LAST]
    assert is_whole(lake)
    after = digests(Path(lake.root))
    changed = {path for path, _ in before.items() ^ after.items()}
    assert all(path.startswith((f"recommendations/ds={LAST}/", ".lock")) for path in changed)
    assert shown(lake, LAST)[1] == "part-night-01-00000005-00000.parquet"
    assert settle(lake, grace=0) == []


def test_it_can_be_gone_back_in(lake: Storage):
    append_rollback(lake, 4, attempt="back")
    assert settle(lake, grace=0) == [LAST]
    assert success(lake, LAST)["run_id"] == "again"
    assert shown(lake, LAST) == [
        "_SUCCESS",
        "part-again-00000006-00000.parquet",
        "part-again-00000006-00001.parquet",
    ]
    assert is_whole(lake)


def test_a_file_that_it_has_lost_comes_back(lake: Storage):
    lake.delete([f"recommendations/ds={LAST}/part-night-01-00001.parquet"])
    assert settle(lake, grace=0) == [LAST]
    assert is_whole(lake)


def test_its_old_runs_are_deleted(lake: Storage):
    assert prune(lake, keep=1, grace=0) == [
        f"runs/ds={LAST}/again",
        "runs/ds=2024-02-29/night-29",
        "runs/ds=2024-02-28/night-28",
    ]
    assert is_whole(lake)


def test_it_is_shown(lake: Storage):
    lines = "\n".join(current_lines(lake))
    assert f"{LAST}, run night-01, by entry 5 of 5" in lines and "NDCG@3" in lines
    run, manifest = open_published(lake, None, None)
    lines = "\n".join(user_lines(config_shown(manifest), run, manifest, user="3", last=5))
    assert "list: by the model" in lines
    # this version has another model
    assert "checkpoint has weights of an earlier version" in lines


def test_its_nights_have_reports(lake: Storage):
    run = find_run(lake, LAST, "night-01")
    write_report(run, config_if_known(run))
    page = (Path(run.storage.root) / "report.html").read_text()
    assert "Published" in page and "Quality" in page
    assert "night-29" in (Path(lake.root) / "reports/index.html").read_text()


# --- a night that goes on in it, on S3 ---


class Continued(NamedTuple):
    lake: Storage
    code: int
    last: dict[str, Any]
    log: str

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.lake.read_bytes(f"runs/ds={NEXT}/x/manifest.json"))  # type: ignore[no-any-return]

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
    """Rules for what is shown: half of the catalogue is kept from user 3, each kind shown once."""
    kinds = pd.DataFrame({"item_id": ITEMS, "kind": [f"kind {n % 7}" for n in range(len(ITEMS))]})
    kinds.to_csv(directory / "items.csv", index=False)
    banned = pd.DataFrame({"user_id": [3, 3, 4], "item_id": [*ITEMS[:2], "never seen"]})
    banned.to_parquet(directory / "banned.parquet")
    lake.write_bytes("rules/banned.parquet", (directory / "banned.parquet").read_bytes())
    score = {"decode": "multi", "max_per_category": 1, "exclude_path": f"{lake.root}/rules/"}
    return {
        "items": {"path": str(directory / "items.csv"), "category_column": "kind"},
        "score": {**CONFIG["score"], **score, "rest_nights": 2},
    }


@pytest.fixture(scope="module")
def continued(cluster: dict[str, str], s3: str, tmp_path_factory) -> Continued:
    """A night after the last of the old lake, which lies on S3, as do the log and a rule."""
    directory = tmp_path_factory.mktemp("continued")
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
    result = Nights(directory, cluster).run(config, "--run-id", "x", date=NEXT)
    return Continued(lake, *result)


@pytest.mark.night
def test_a_night_on_s3_is_published_onto_it(continued: Continued):
    assert (continued.code, continued.last["status"]) == (0, "done"), continued.log
    assert "testsecret" not in continued.log
    assert read_chain(continued.lake)[-1].current == {"ds": NEXT, "run_id": "x"}
    assert is_whole(continued.lake)
    assert len(continued.lists()) == 16


@pytest.mark.night
def test_a_night_starts_from_its_weights_and_rests_its_lists(continued: Continued):
    assert continued.last["counts"]["score"]["rested_pairs"] > 0
    assert continued.manifest()["started_from"]["checkpoint"]["run_id"] == "night-01"


@pytest.mark.night
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
