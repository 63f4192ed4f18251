"""Backfilling: which dates run, where it stops, what it says."""

import json
from datetime import date
from pathlib import Path

import pytest

from diffsasrec.errors import ConfigError
from jobs.backfill import DateResult, backfill, dates_between, night_of, run, summary_of
from jobs.faults.rig.nights import Nights, tiny_config
from jobs.runner.arguments import parse_backfill

DATES = ["2026-11-01", "2026-11-02", "2026-11-03"]


def nights_of(codes: list[int], *, keep_going: bool = False, published=()) -> list[DateResult]:
    """A backfill of DATES whose nights end with these codes, in the order in which they run."""
    left = iter(codes)
    return backfill(
        DATES,
        published=lambda ds: "before" if ds in published else None,
        run_night=lambda ds: night_of(ds, next(left), {"run_id": "mine"}, 75.0),
        keep_going=keep_going,
    )


def test_both_ends_of_a_range_belong_to_it_and_the_oldest_date_comes_first():
    assert dates_between(date(2026, 11, 1), date(2026, 11, 3)) == DATES
    assert dates_between(date(2026, 2, 28), date(2026, 3, 1)) == ["2026-02-28", "2026-03-01"]


def test_dates_that_are_published_are_skipped_and_said(capsys):
    nights = nights_of([0, 0], published={"2026-11-02"})
    assert [(night.status, night.run_id) for night in nights] == [
        ("done", "mine"),
        ("skipped", "before"),
        ("done", "mine"),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-01  done     run mine in 1:15",
        "2026-11-02  skipped  already published by run before",
        "2026-11-03  done     run mine in 1:15",
    ]


def test_the_first_night_that_fails_ends_it_with_its_code():
    nights = nights_of([0, 4])
    code, summary = summary_of(nights, DATES)
    assert code == 4
    assert summary["counts"] == {"done": 1, "skipped": 0, "failed": 1, "not_run": 1}
    assert [night["ds"] for night in summary["nights"]] == DATES[:2]


def test_on_demand_it_goes_on_and_ends_with_the_first_code_that_is_not_0():
    nights = nights_of([3, 0, 5], keep_going=True)
    code, summary = summary_of(nights, DATES)
    assert code == 3
    assert summary["counts"] == {"done": 1, "skipped": 0, "failed": 2, "not_run": 0}


def test_a_night_that_was_killed_counts_as_infrastructure():
    night = night_of("2026-11-01", -9, {}, 1.0)
    assert (night.status, night.code) == ("failed", 5)
    assert "signal 9" in night.note


def test_a_date_that_shows_another_run_is_not_done():
    last = {"run_id": "mine", "status": "superseded", "note": "--rollback-to 4 serves it again"}
    night = night_of("2026-11-01", 0, last, 1.0)
    assert (night.status, night.code, night.note) == ("superseded", 0, last["note"])
    code, summary = summary_of([night], ["2026-11-01"])
    assert (code, summary["counts"]["done"], summary["counts"]["skipped"]) == (0, 0, 1)


def test_a_night_that_the_gate_refuses_says_so():
    last = {"run_id": "x", "status": "refused", "error": "NDCG@10=0.01"}
    night = night_of("2026-11-01", 4, last, 1.0)
    assert (night.status, night.note) == ("refused", "exit code 4: NDCG@10=0.01")


def test_a_range_that_ends_in_the_future_is_refused_before_any_night(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("lake: lake\nevents: {path: log}")
    dates = ["--from", "2024-11-01", "--to", "2062-11-01"]
    arguments = parse_backfill(["--config", str(tmp_path / "c.yaml"), *dates])
    with pytest.raises(ConfigError, match=r"--to 2062-11-01 lies after tomorrow .*--future"):
        run(arguments)


def test_a_night_that_is_not_current_is_done_and_says_what_is():
    last = {"run_id": "mine", "note": "...", "current": {"ds": "2026-11-23", "run_id": "calm"}}
    night = night_of("2026-11-01", 0, last, 75.0)
    assert (night.status, night.code) == ("done", 0)
    assert night.note == "run mine in 1:15; current is 2026-11-23, run calm"


@pytest.mark.process
def test_as_a_command_it_skips_what_is_published_and_ends_as_the_night_that_fails(tmp_path: Path):
    chain = tmp_path / "lake" / "recommendations" / "_published"
    chain.mkdir(parents=True)
    shown = {"ds": "2024-11-01", "run_id": "calm"}
    entry = {**shown, "number": 1, "attempt": "a", "manifest_sha256": "0", "previous": None}
    (chain / "00000001.json").write_text(json.dumps({**entry, "current": shown}))
    config = tiny_config("/nowhere/*.parquet", str(tmp_path / "lake"))
    range_of = ["--from", "2024-11-01", "--to", "2024-11-03", "--set", "seed=7"]
    night = Nights(tmp_path, {}).start(config, *range_of, date=None, job="backfill")
    stdout, _ = night.process.communicate(timeout=240)
    skipped, failed, total, last = stdout.splitlines()
    assert night.process.returncode == 3, night.log_path.read_text()
    assert skipped == "2024-11-01  skipped  already published by run calm"
    assert failed.startswith("2024-11-02  failed   exit code 3: ") and "/nowhere" in failed
    assert total == "2024-11-01 to 2024-11-03: 0 done, 1 skipped, 1 failed, 1 not run"
    assert json.loads(last)["counts"] == {"done": 0, "skipped": 1, "failed": 1, "not_run": 1}
