"""Which dates a publication looks at: its own, the newest, and those that may be unsettled."""

import json
import os
import threading
from datetime import date, timedelta
from pathlib import Path

import pytest
from lakes import DAY, LONG, made, meanwhile, missing, parts, shown, success

from diffsasrec.files.storage import FileInfo, Storage
from diffsasrec.lake.consumer_copy import copy_to_lake, part_name, settle
from diffsasrec.lake.prune import prune
from diffsasrec.lake.settled import RECENT, SETTLED, STATE, mark


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


def later(number: int) -> str:
    return str(date.fromisoformat(DAY) + timedelta(number))


def nights(lake: Storage, first: int, num: int) -> None:
    """Publishes nights after DAY, one part each."""
    for number in range(first, first + num):
        made(lake, f"n{number}", later(number), rows=(1,))
        settle(lake, grace=0)


def state(lake: Storage) -> tuple[int, list[str]]:
    content = json.loads(lake.read_bytes(STATE))
    return content["until"], content["unsettled"]


def listed(lake: Storage) -> list[str]:
    """The dates that are listed where nothing is to do."""
    seen: set[str] = set()

    class Seeing(Storage):
        def list(self, directory: str = "") -> list[FileInfo]:
            assert directory != "recommendations"
            seen.update([directory] if "/ds=" in directory else [])
            return super().list(directory)

    assert settle(Seeing(lake.root), grace=0) == []
    return sorted(path.partition("ds=")[2] for path in seen)


def test_of_many_settled_dates_only_the_newest_are_looked_at(lake: Storage):
    nights(lake, 0, RECENT + 5)
    assert state(lake) == (RECENT + 5, [])
    assert listed(lake) == [later(number) for number in range(5, RECENT + 5)]


def test_without_the_file_of_an_earlier_version_every_date_is_looked_at(lake: Storage):
    nights(lake, 0, RECENT + 2)
    lake.delete([STATE])
    assert listed(lake) == [later(number) for number in range(RECENT + 2)]
    assert state(lake) == (RECENT + 2, [])


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"until": 99, "unsettled": []}'])
def test_a_file_that_is_not_of_this_chain_says_nothing(lake: Storage, content: bytes):
    nights(lake, 0, RECENT + 2)
    lake.write_bytes(STATE, content)
    assert len(listed(lake)) == RECENT + 2


def test_the_date_of_the_command_is_looked_at(lake: Storage):
    nights(lake, 0, RECENT + 2)
    lake.delete([f"recommendations/ds={DAY}/_SUCCESS"])
    assert settle(lake, grace=0) == []
    assert settle(lake, grace=0, dates=[DAY]) == [DAY]


def test_an_old_date_whose_copy_was_interrupted_is_finished(lake: Storage):
    nights(lake, 0, RECENT + 2)
    made(lake, "again", DAY)

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settle(meanwhile(lake, "replace", "_SUCCESS", die), grace=0)
    assert success(lake)["run_id"] == "n0"
    assert settle(lake, grace=0) == [DAY]
    assert shown(lake) == ["_SUCCESS", *parts("again", RECENT + 3)]


def test_replaced_parts_of_an_old_date_go_once_the_grace_time_is_over(lake: Storage):
    nights(lake, 0, RECENT + 2)
    made(lake, "again", DAY)
    settle(lake, grace=LONG)
    assert state(lake) == (RECENT + 3, [DAY])
    assert len(shown(lake)) == 4
    settle(lake, grace=0)
    assert shown(lake) == ["_SUCCESS", *parts("again", RECENT + 3)]
    assert state(lake) == (RECENT + 3, [])


def test_what_a_publisher_leaves_that_is_overtaken_and_dies_is_removed(lake: Storage):
    entry = made(lake, "slow")
    source = f"runs/ds={DAY}/slow/recommendations/part-00000.parquet"

    def others() -> None:
        made(lake, "fast")
        settle(lake, grace=0)
        nights(lake, 1, RECENT)
        lake.copy(source, f"recommendations/ds={DAY}/{part_name(entry, source)}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settle(meanwhile(lake, "copy", "part-slow-", others), grace=0)
    assert parts("slow", 1)[0] in shown(lake)
    settle(lake, grace=0)
    assert shown(lake) == ["_SUCCESS", *parts("fast", 2)]


def test_the_mark_of_a_process_that_died_long_ago_is_removed(lake: Storage, tmp_path: Path):
    nights(lake, 0, RECENT + 2)
    path = mark(lake, DAY)
    assert DAY in listed(lake) and lake.exists(path)
    os.utime(tmp_path / path, (0, 0))
    assert DAY in listed(lake) and not lake.exists(path)
    assert DAY not in listed(lake)
    assert [info.path for info in lake.list(SETTLED)] == [STATE]


def test_a_publisher_that_others_outrun_leaves_its_mark(lake: Storage):
    made(lake, "r1")
    settle(meanwhile(lake, "replace", STATE, lambda: nights(lake, 1, 1)), grace=0)
    assert state(lake) == (2, [])
    assert len(lake.list(f"{SETTLED}/ds={DAY}")) == 1


def test_an_old_date_that_lost_a_file_is_repaired_before_its_run_is_deleted(lake: Storage):
    made(lake, "r0")
    settle(lake, grace=0)
    nights(lake, 1, RECENT + 1)
    lake.delete([f"recommendations/ds={DAY}/{parts('r0', 1)[1]}"])
    assert f"runs/ds={DAY}/r0" not in prune(lake, keep=1, grace=0)
    assert missing(lake) == []
    assert prune(lake, keep=1, grace=0) == [f"runs/ds={DAY}/r0"]


def test_a_date_that_was_deleted_with_its_run_is_settled(lake: Storage):
    copy_to_lake(lake, made(lake, "r1"))
    lake.delete([info.path for info in lake.list() if f"ds={DAY}" in info.path])
    settle(lake, grace=0)
    assert state(lake) == (1, [])


def test_each_date_that_is_looked_at_is_a_sign_of_life(lake: Storage, beats: list[None]):
    nights(lake, 0, 3)
    beats.clear()
    settle(lake, grace=0)
    assert len(beats) >= 3


def test_the_parts_are_copied_at_once_and_success_is_written_after_them(lake: Storage):
    entry, both, done = made(lake, "r1"), threading.Barrier(2, timeout=60), []

    class Watched(Storage):
        def copy(self, source: str, target: str) -> None:
            both.wait()  # breaks unless both parts are being copied
            super().copy(source, target)
            done.append("copy")

        def replace(self, path: str, data: bytes, version: str | None) -> bool:
            done.append("replace")
            return super().replace(path, data, version)

    assert copy_to_lake(Watched(lake.root), entry)
    assert done == ["copy", "copy", "replace"]
