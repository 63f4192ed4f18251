"""What a published night becomes: current or not, and dates that have not come."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from recorded import metrics_of, settings_of, write_night

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import Entry, append_rollback, read_chain
from diffsasrec.lake.stages import METRICS
from jobs.faults.rig.nights import Nights, tiny_config
from jobs.night.records import Published
from jobs.observe.prometheus import MetricFacts, exposition
from jobs.report.read_run import read_facts
from jobs.report.sections.notices import notices
from jobs.runs.run_dates import is_future, refuse_future
from jobs.runs.standing import standing_of, why_not_current
from jobs.show.__main__ import newest_metrics

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
LATE = datetime.fromisoformat("2026-11-23T20:00:00-05:00")  # the 24th in UTC


def chain_of(*links: tuple[str, str]) -> list[Entry]:
    """Entries by their date and the date that is current with them; run ids are r and the day."""
    return [
        Entry(
            n, f"a{n}", ds, f"r{ds[-2:]}", "", n - 1 or None, {"ds": now, "run_id": f"r{now[-2:]}"}
        )
        for n, (ds, now) in enumerate(links, 1)
    ]


def why(chain: list[Entry], ds: str) -> str | None:
    return why_not_current(
        chain,
        ds,
        f"r{ds[-2:]}",
        config_path="my.yaml",
        is_ahead=lambda ds: is_future(ds, NOW),
    )


D1, D2, D3, FAR = "2026-11-21", "2026-11-22", "2026-11-23", "2062-11-24"


def test_tomorrow_is_allowed_and_the_day_after_is_not():
    refuse_future(date(2026, 11, 24), is_meant=False, now=NOW)
    with pytest.raises(ConfigError, match=r"2026-11-25 lies after tomorrow \(2026-11-24, UTC\)"):
        refuse_future(date(2026, 11, 25), is_meant=False, now=NOW)
    refuse_future(date(2062, 11, 25), is_meant=True, now=NOW)


def test_the_day_is_that_of_utc():
    assert is_future("2026-11-25", NOW) and not is_future("2026-11-25", LATE)


def test_a_night_that_is_current_or_was_has_nothing_to_say():
    chain = chain_of((D1, D1), (D2, D2))
    assert why(chain, D2) is None and why(chain, D1) is None
    assert why(chain, D3) is None  # not published


def test_a_future_run_that_stays_current_is_named_with_the_way_out():
    chain = chain_of((D1, D1), (FAR, FAR), (D2, FAR))
    assert why(chain, D2) == (
        "run r22 of 2026-11-22 is published as entry 3, but it is not current: 2062-11-24, run "
        "r24, is since entry 2, and 2062-11-24 lies in the future. Until then no night becomes "
        "current; python -m jobs.publish --config my.yaml --rollback-to 1 serves 2026-11-21, run "
        "r21, again, and the next night that is published becomes current"
    )


def test_the_way_out_leads_out(tmp_path: Path):
    lake = tmp_path / "lake"
    for ds in (D1, FAR, D2):
        run = write_night(lake, ds)
    assert why_not_current(read_chain(run.lake), D2, "calm", config_path="c") is not None
    append_rollback(run.lake, 1, attempt="back")
    after = write_night(lake, D3)
    assert read_chain(after.lake)[-1].current == {"ds": D3, "run_id": "calm"}


def test_the_way_out_names_the_date_that_it_puts_back_as_well():
    chain = chain_of((D2, D2), (D1, D2), (FAR, FAR), (D1, FAR), (D3, FAR))
    chain[3] = replace(chain[3], run_id="anew")
    said = why(chain, D3)
    assert said is not None and said.endswith(
        "--rollback-to 2 serves 2026-11-22, run r22, again, and 2026-11-21 shows run r21 again, "
        "and the next night that is published becomes current"
    )


def test_what_an_older_date_left_behind_is_named_with_all_that_going_back_changes():
    chain = chain_of((D2, D2), (D1, D2), (FAR, FAR), (D1, FAR), (D3, FAR))
    chain[3] = replace(chain[3], run_id="anew")
    said = why_not_current(chain, D3, "r23", config_path="my.yaml", is_ahead=lambda ds: False)
    assert said is not None and said.endswith(
        "--rollback-to 2 serves 2026-11-22, run r22, again, and 2026-11-21 shows run r21 again"
    )


def test_a_superseded_run_says_what_serving_it_again_makes_current(tmp_path: Path):
    lake = tmp_path / "lake"
    run = write_night(lake, D1)
    write_night(lake, D2)
    write_night(lake, D1, run_id="again")
    note = standing_of(run, Published.of(run), "c")["note"]
    assert note.endswith(f"serves it again, and makes {D1}, run calm, current")


def test_a_future_run_that_was_the_first_leaves_no_way_back():
    said = why(chain_of((FAR, FAR), (D2, FAR)), D2)
    assert said is not None and said.endswith("publish into a new lake")


def test_an_older_date_leaves_what_is_current_and_that_is_meant():
    said = why(chain_of((D1, D1), (D3, D3), (D2, D3)), D2)
    assert said is not None and "a later run date stays current" in said
    assert said.endswith(
        "Nothing is to be done where an older date was meant; python -m jobs.publish --config "
        "my.yaml --rollback-to 1 serves 2026-11-21, run r21, again"
    )
    first = why(chain_of((D3, D3), (D2, D3)), D2)
    assert first is not None and first.endswith("where an older date was meant")


def test_a_night_that_a_rollback_went_behind_can_be_served_again():
    said = why(chain_of((D1, D1), (D2, D2), (D1, D1)), D2)
    assert said is not None and said.endswith(
        "2026-11-21, run r21, is since entry 3, a rollback; python -m jobs.publish --config "
        "my.yaml --rollback-to 2 serves this run again"
    )


def test_a_run_says_what_is_current_and_superseded_comes_first(tmp_path: Path):
    run = write_night(tmp_path, D1)
    published = Published.of(run)
    assert standing_of(run, published, "c") == {"current": {"ds": D1, "run_id": "calm"}}
    write_night(tmp_path, D1, run_id="again")
    found = standing_of(run, published, "c")
    assert found["status"] == "superseded" and found["current"]["run_id"] == "again"
    assert "--rollback-to 1 serves it again" in found["note"]


def test_the_report_of_a_night_that_is_not_current_says_so(tmp_path: Path):
    lake = tmp_path / "lake"
    for ds in (D1, FAR):
        write_night(lake, ds)
    run = write_night(lake, D2)
    facts = read_facts(run, settings_of(lake))
    (notice,) = [n for n in notices(facts) if "current" in n.title]
    assert notice.level == "bad" and "2062-11-24 lies in the future" in notice.seen
    older = read_facts(write_night(lake, D1, run_id="other"), settings_of(lake))
    assert older.is_stuck


def test_the_report_of_an_older_night_is_calm_once_a_newer_one_has_followed(tmp_path: Path):
    first = write_night(tmp_path / "lake", D1)
    write_night(tmp_path / "lake", D2)
    assert read_facts(first, None).not_current == ""


def test_metrics_tell_whether_a_night_is_current():
    outcome = {"ds": D2, "run_id": "r22", "stage": "publish", "exit_code": 0, "seconds": {}}
    outcome |= {"ended": "2026-11-22T03:00:00+00:00", "counts": {}}

    def told(current: dict[str, str] | None) -> str:
        facts = MetricFacts(outcome, metrics_of(0.25), 1e9, None, current=current)
        return exposition(facts).decode()

    assert "diffsasrec_is_current 1.0" in told({"ds": D2, "run_id": "r22"})
    assert "diffsasrec_is_current 0.0" in told({"ds": FAR, "run_id": "r24"})
    assert "diffsasrec_current_run_date_timestamp_seconds 2.931552e+09" in told(
        {"ds": FAR, "run_id": "r24"}
    )
    assert "is_current" not in told(None)


def test_a_run_in_the_future_does_not_hide_the_metrics_of_the_newest_night(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    lake.write_bytes(f"runs/ds={FAR}/x/{METRICS}", b"far\n")
    assert newest_metrics(lake) == "far\n"
    lake.write_bytes(f"runs/ds={D2}/x/{METRICS}", b"near\n")
    assert newest_metrics(lake) == "near\n"


@pytest.mark.process
def test_a_night_in_the_future_is_refused_unless_it_is_meant(tmp_path: Path):
    config = tiny_config("/nowhere/*.parquet", str(tmp_path / "lake"))
    nights = Nights(tmp_path, {})
    code, last, _ = nights.run(config, date="2062-11-23")
    assert code == 2 and "--date 2062-11-23 lies after tomorrow" in last["error"]
    assert not (tmp_path / "lake").exists()
    code, last, _ = nights.run(config, "--future", date="2062-11-23", job="score")
    assert code == 3 and "/nowhere" in last["error"]
