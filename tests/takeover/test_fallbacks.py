"""When a night reads all of its log although an earlier one has read most of it."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from night_logs import bytes_of, config_of, opened, prepared, publish, write_part

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.lake.claims import announce
from jobs.prepare import main, prepare
from jobs.report.sections.night import taken_over_tables
from jobs.runner.identity import source_digest
from jobs.takeover.choosing import NotTaken, newest_entry
from jobs.takeover.taking import Taking, in_words, takeover

FIRST, SECOND = "2024-03-01", "2024-03-02"


@pytest.fixture(scope="module")
def night(cluster, tmp_path_factory) -> Config:
    """A lake with a published night that has kept what it read; nobody changes it but by adding."""
    place = tmp_path_factory.mktemp("night")
    for number in range(25, 30):
        write_part(place / f"log/dt=2024-02-{number}/a.parquet", f"2024-02-{number}", seed=number)
    config = config_of(place / "log", place / "lake")
    publish(config, *prepared(config, FIRST, "first"))
    return config


def copied(night: Config, tmp_path: Path) -> Config:
    """The same night in a lake of its own."""
    shutil.copytree(night.lake, tmp_path / "lake")
    return night.model_copy(update={"lake": str(tmp_path / "lake")})


def why_not(config: Config, ds: str = SECOND) -> str | None:
    """Why a night of the log as it is now takes over nothing, before it reads a row."""
    run = opened(config, ds, "second")
    with takeover(config, run, source=source_digest()) as taking:
        return taking.inspect(config, run)[0].why_not


def changed(config: Config, **sections: Mapping[str, object]) -> Config:
    known = config.resolved()
    merged = {name: {**known[name], **values} for name, values in sections.items()}
    return Config.model_validate({**known, **merged})


def test_the_same_log_is_taken_over(night):
    assert why_not(night) is None


def test_keys_that_change_no_kept_row_change_nothing(night):
    split = {"min_item_count": 1, "quantile": 0.5}
    assert why_not(changed(night, split=split, events={"max_bad_fraction": 0.5})) is None


def test_another_key_of_the_log_is_named(night):
    assert why_not(changed(night, events={"where": ["kind = buy"]})) == (
        "run first of 2024-03-01 has another events.where"
    )
    found = why_not(changed(night, split={"max_user_events": 7}))
    assert found == "run first of 2024-03-01 has another split.max_user_events"


def test_other_code_and_no_earlier_night_are_named(night, tmp_path):
    with pytest.raises(NotTaken, match="run first of 2024-03-01 was made by other code"):
        newest_entry(night, opened(night, SECOND, "second"), source="other")
    empty = night.model_copy(update={"lake": str(tmp_path)})
    assert why_not(empty) == "no earlier night is published, or --keep has deleted them all"
    assert why_not(night, ds=FIRST) == why_not(empty)


def test_a_changed_and_a_vanished_file_are_named(night, tmp_path):
    log = tmp_path / "log"
    for number in (28, 29):
        write_part(log / f"dt=2024-02-{number}/a.parquet", f"2024-02-{number}", seed=number)
    config = config_of(log, tmp_path / "lake")
    publish(config, *prepared(config, FIRST, "first"))
    path = log / "dt=2024-02-28/a.parquet"
    os.utime(path, (1, 1))
    assert why_not(config) == f"{path} changed since run first of 2024-03-01"
    path.unlink()
    assert why_not(config) == f"{path} read by run first of 2024-03-01 is gone"


def test_a_run_that_is_being_deleted_is_left_alone(night, tmp_path):
    config = copied(night, tmp_path)
    announce(Storage.of(config.lake), "runs/ds=2024-03-01/first")
    found = why_not(config)
    assert found is not None and "is being deleted by --keep" in found


def test_nothing_is_taken_over_where_it_is_not_asked_for(night):
    assert why_not(changed(night, events={"incremental": False})) is None
    with takeover(
        changed(night, events={"incremental": False}), opened(night, SECOND, "x"), source=""
    ) as taking:
        assert taking == Taking()


def test_a_damaged_earlier_run_and_a_killed_attempt_come_to_the_same(night, tmp_path):
    config = copied(night, tmp_path)
    whole = opened(config, SECOND, "whole")
    prepare(config, whole, Taking())
    expected = bytes_of(whole)

    killed = opened(config, SECOND, "killed")
    main(config, killed)
    lost = [path for number, path in enumerate(sorted(expected)) if number % 2]
    killed.storage.delete(lost)  # as if the first attempt had not come to them
    assert "run_id" in (main(config, killed).taken_over or {})
    assert bytes_of(killed) == expected

    earlier = Storage.of(config.lake).sub("runs/ds=2024-03-01/first")
    earlier.write_bytes("sequences/part-00001.parquet", b"no table")
    damaged = opened(config, SECOND, "damaged")
    why = (main(config, damaged).taken_over or {})["why_not"]
    assert "part-00001.parquet is gone, or is not the file that was published" in why
    assert bytes_of(damaged) == expected


def test_another_number_of_buckets_is_named_and_read_anew(night):
    config = changed(night, split={"users_per_bucket": 9})
    run, whole = opened(config, SECOND, "more"), opened(config, SECOND, "all")
    why = (main(config, run).taken_over or {})["why_not"]
    assert "buckets of users, run first of 2024-03-01 has" in why
    prepare(config, whole, Taking())
    assert bytes_of(run) == bytes_of(whole)


def test_a_night_says_what_it_takes_over_before_it_reads(night, caplog):
    run = opened(night, SECOND, "dry")
    with (
        caplog.at_level(logging.INFO),
        takeover(night, run, source=source_digest()) as taking,
    ):
        taken, found = taking.inspect(night, run)
        taken.say(found)
    assert "are taken over from run first of 2024-03-01; 0 new files are read" in caplog.text


def test_a_report_has_a_table_of_it():
    assert taken_over_tables(None) == []
    (table,) = taken_over_tables({"why_not": "no earlier night is published"})
    assert table.rows == [["nothing: the whole log was read", "no earlier night is published"]]


def test_what_is_taken_over_is_said_in_words():
    recorded = {"ds": FIRST, "run_id": "r", "files": 3, "rows": 70, "new_files": 1}
    words = "3 files with 70 rows are taken over from run r of 2024-03-01; 1 new files are read"
    assert in_words({**recorded, "files_read_again": 0}) == words
    again = in_words({**recorded, "files_read_again": 2})
    assert again == f"{words}, and 2 others again, in which other rows count tonight"
    assert in_words({"why_not": "x"}) == "events.incremental: the whole log is read: x"
