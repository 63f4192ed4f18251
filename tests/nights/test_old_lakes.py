"""A lake of version 0.1.0 is settled, gone back in, thinned out and shown.

It is published onto in test_night_on_s3.py.
"""

from pathlib import Path

import pytest
from lakes import shown, success
from old_lake import LAST, is_whole, unpack

from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_rollback
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.prune import prune
from jobs.faults.rig.nights import digests
from jobs.report.pages import write_report
from jobs.runs.published_runs import config_if_known, find_run, open_published
from jobs.runs.published_runs import config_of as config_shown
from jobs.show.__main__ import current_lines
from jobs.show.user import user_lines


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    unpack(tmp_path)
    return Storage.of(str(tmp_path / "lake"))


def test_it_is_whole_and_settling_gives_numbers_to_the_parts_of_a_rollback_alone(lake: Storage):
    before = digests(Path(lake.root))
    assert is_whole(lake)
    assert settle(lake, grace=0) == [LAST]
    assert is_whole(lake)
    after = digests(Path(lake.root))
    changed = {path for path, _ in before.items() ^ after.items()}
    mine = (f"recommendations/ds={LAST}/", "recommendations/_settled/", ".lock")
    assert all(path.startswith(mine) for path in changed)
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
