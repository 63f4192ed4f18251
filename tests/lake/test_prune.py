"""Deleting old runs: what stays, what is announced, and what happens at the same moment."""

import os
from pathlib import Path

import pytest
from lakes import DAY, LONG, NEXT_DAY, made, meanwhile, snapshot

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_rollback, read_chain
from diffsasrec.lake.claims import deleted
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.prune import prune


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


def run_ids(lake: Storage) -> list[str]:
    return sorted(
        {i.path.split("/")[2] for i in lake.list("runs") if i.path.startswith("runs/ds=")}
    )


def test_pruning_keeps_the_newest_runs_and_what_is_served(lake: Storage):
    made(lake, "served", NEXT_DAY)
    for number in range(4):
        made(lake, f"backfill-{number}", DAY)
    settle(lake, grace=0)
    before = snapshot(lake.sub("recommendations"))
    pruned = prune(lake, keep=2, grace=0)
    assert pruned == [f"runs/ds={DAY}/backfill-{number}" for number in (1, 0)]
    assert run_ids(lake) == ["backfill-2", "backfill-3", "served"]
    assert snapshot(lake.sub("recommendations")) == before
    assert prune(lake, keep=2, grace=0) == []


def test_pruning_leaves_alone_what_was_never_published(lake: Storage):
    made(lake, "r1")
    made(lake, "r2")
    lake.write_bytes(f"runs/ds={DAY}/unfinished/vocab/part-00000.parquet", b"x")
    prune(lake, keep=1, grace=0)
    assert run_ids(lake) == ["r2", "unfinished"]


def test_what_was_served_a_moment_ago_is_not_pruned(lake: Storage, tmp_path: Path):
    for number in (1, 2, 3):
        made(lake, f"r{number}")
    assert prune(lake, keep=1, grace=LONG) == []
    # the first was replaced long ago, the second has just been
    os.utime(tmp_path / "recommendations" / "_published" / "00000002.json", (0, 0))
    assert prune(lake, keep=1, grace=LONG) == [f"runs/ds={DAY}/r1"]


def test_a_pruned_run_can_not_be_gone_back_to(lake: Storage):
    made(lake, "r1")
    made(lake, "r2")
    prune(lake, keep=1, grace=0)
    with pytest.raises(ConfigError, match="pruned"):
        append_rollback(lake, 1, attempt="back")


def published(lake: Storage, *run_ids: str) -> None:
    for run_id in run_ids:
        made(lake, run_id)
        settle(lake, grace=0)


def current_is_there(lake: Storage) -> bool:
    current = read_chain(lake)[-1].current
    return lake.exists(f"runs/ds={current['ds']}/{current['run_id']}/manifest.json")


def roll_back(lake: Storage) -> str:
    try:
        append_rollback(lake, 1, attempt="back")
    except ConfigError as error:
        return str(error)
    return "rolled back"


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("create", "runs/_deleted"),
        ("list", "runs/_claimed"),
        ("list", "recommendations/_published"),
    ],
)
def test_a_run_that_becomes_current_before_it_is_announced_stays(
    lake: Storage, verb: str, path: str
):
    published(lake, "r1", "r2")
    slow = meanwhile(lake, verb, path, lambda: outcomes.append(roll_back(lake)))
    outcomes: list[str] = []
    prune(slow, keep=1, grace=0)
    assert current_is_there(lake)
    assert len(outcomes) == 1


@pytest.mark.parametrize("verb", ["delete", "delete_tree"])
def test_a_rollback_to_a_run_that_is_being_deleted_is_refused(lake: Storage, verb: str):
    published(lake, "r1", "r2")
    outcomes: list[str] = []
    path = f"runs/ds={DAY}/r1"
    slow = meanwhile(lake, verb, path, lambda: outcomes.append(roll_back(lake)))
    assert prune(slow, keep=1, grace=0) == [path]
    assert ("is being deleted" if verb == "delete" else "was pruned") in outcomes[0]
    assert len(read_chain(lake)) == 2 and current_is_there(lake)


@pytest.mark.parametrize(
    ("verb", "path"), [("exists", f"runs/ds={DAY}/r1"), ("create", "recommendations/_published")]
)
def test_deleting_while_a_rollback_goes_on_leaves_what_it_serves(
    lake: Storage, verb: str, path: str
):
    published(lake, "r1", "r2")
    roll_back(meanwhile(lake, verb, path, lambda: prune(lake, keep=1, grace=0)))
    assert current_is_there(lake)


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_one(lake: Storage):
    published(lake, "r1", "r2")
    path = f"runs/ds={DAY}/r1"

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(meanwhile(lake, "delete_tree", path, die), keep=1, grace=0)
    assert lake.list(path) != []
    assert prune(lake, keep=1, grace=0) == [path]
    assert lake.list(path) == []
    assert deleted(lake, path) == {
        "run": path,
        "identity": "i of r1",
        "reused": None,
        "rested": None,
    }


def test_what_was_deleted_is_known_by_its_identity(lake: Storage):
    published(lake, "r1", "r2")
    prune(lake, keep=1, grace=0)
    path = f"runs/ds={DAY}/r1"
    assert deleted(lake, path) == {
        "run": path,
        "identity": "i of r1",
        "reused": None,
        "rested": None,
    }
    assert deleted(lake, f"runs/ds={DAY}/r2") is None


def test_deleting_leaves_no_empty_directory_and_nothing_hidden(lake: Storage, tmp_path: Path):
    made(lake, "r1", "2024-02-29")
    published(lake, "r2")
    left = tmp_path / "runs/ds=2024-02-29/r1/vocab/.tmp-0123"
    left.write_bytes(b"cut short")
    settle(lake, grace=0)
    prune(lake, keep=1, grace=0)
    assert not (tmp_path / "runs/ds=2024-02-29").exists()
    assert not (tmp_path / "runs/_claimed").exists()


def test_a_run_that_its_date_does_not_show_yet_stays(lake: Storage):
    made(lake, "r1", "2024-02-29")
    published_later = made(lake, "r2")
    lake.delete(["recommendations/ds=2024-02-29/_SUCCESS"])
    assert published_later.number == 2
    assert prune(lake, keep=1, grace=0) == []
    settle(lake, grace=0)
    assert prune(lake, keep=1, grace=0) == ["runs/ds=2024-02-29/r1"]


def test_the_claim_of_a_process_that_died_long_ago_holds_nothing(lake: Storage, tmp_path: Path):
    published(lake, "r1", "r2")
    mark = f"runs/_claimed/ds={DAY}/r1/died.json"
    lake.write_bytes(mark, b"{}")
    assert prune(lake, keep=1, grace=0) == []
    os.utime(tmp_path / mark, (0, 0))
    assert prune(lake, keep=1, grace=0) == [f"runs/ds={DAY}/r1"]


def test_a_run_that_a_rollback_names_again_stays_until_its_date_shows_it(lake: Storage):
    published(lake, "r1", "r2")

    def others() -> None:
        append_rollback(lake, 1, attempt="back")
        made(lake, "r3", NEXT_DAY)

    assert prune(meanwhile(lake, "create", "runs/_deleted", others), keep=1, grace=0) == []
    settle(lake, grace=0)
    assert prune(lake, keep=1, grace=0) == [f"runs/ds={DAY}/r1", f"runs/ds={DAY}/r2"]


def test_a_claim_of_a_process_that_died_goes_with_the_run(lake: Storage, tmp_path: Path):
    published(lake, "r1", "r2")
    mark = tmp_path / f"runs/_claimed/ds={DAY}/r1/died.json"
    lake.write_bytes(str(mark.relative_to(tmp_path)), b"{}")
    os.utime(mark, (0, 0))
    prune(lake, keep=1, grace=0)
    assert not (tmp_path / "runs/_claimed").exists()
