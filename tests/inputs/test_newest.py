"""A bad day and a bad file are seen, however long the log is."""

from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig
from diffsasrec.config.load import load_config
from diffsasrec.errors import InputDataError
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.inputs.log_files import list_inputs
from diffsasrec.inputs.newest import (
    DAYS,
    SCHEMA,
    NewestRows,
    Part,
    check_newest,
    count_days,
    recorded,
)
from diffsasrec.lake.chain import append_entry, append_rollback
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.times import DAY, microseconds
from jobs.prepare import files_to_judge, main

DS = "2024-06-01"
BEFORE = microseconds(DS)
EVENTS = EventsConfig(path="log", time_unit="s")
YESTERDAY = "2024-05-31"


def bad_rows(times: list[int | None], *, path: str = "log.parquet") -> pa.Table:
    names = ("who", "what", "when", "reason", "source_path")
    rest = [["null_item_id"] * len(times), [path] * len(times)]
    return pa.table([["u"] * len(times), [None] * len(times), pa.array(times, pa.int64()), *rest],
                    names=names)  # fmt: skip


def days_of(times: list[int], bad: pa.Table | None = None) -> dict[str, tuple[int, int]]:
    table = count_days(np.array(times, np.int64), bad, time_unit="s", before=BEFORE)
    assert table.schema == SCHEMA
    return {row["day"]: (row["day_rows"], row["day_bad"]) for row in table.to_pylist()}


def parts_of(rows: NewestRows, min_rows: int = 1) -> list[tuple[str, str, int, int]]:
    parts = rows.parts(min_rows=min_rows)
    return [(part.kind, part.name, part.rows, part.bad) for part in parts]


# --- counting ---


def test_rows_are_counted_by_each_of_the_newest_days():
    times = [BEFORE - 1, BEFORE - DAY, BEFORE - DAY - 1, BEFORE - DAYS * DAY]
    assert days_of(times) == {YESTERDAY: (2, 0), "2024-05-30": (1, 0), "2024-05-25": (1, 0)}


def test_what_is_older_or_not_of_this_night_is_of_no_newest_day():
    assert days_of([BEFORE - DAYS * DAY - 1, BEFORE, 0]) == {}
    assert days_of([], bad_rows([(BEFORE - DAYS * DAY) // 1_000_000 - 1, None, -5])) == {}


def test_bad_rows_are_of_the_day_of_their_time_or_of_their_partition():
    bad = bad_rows([BEFORE // 1_000_000 - 1, None])
    assert days_of([BEFORE - 1], bad) == {YESTERDAY: (2, 1)}
    partition = bad_rows([None, None], path=f"log/dt={YESTERDAY}/part.parquet")
    assert days_of([], partition) == {YESTERDAY: (2, 2)}


def test_fragments_add_up_to_days_new_files_and_all_new_files():
    rows = NewestRows(frozenset({"a", "b"}))
    day = count_days(np.array([BEFORE - 1]), None, time_unit="s", before=BEFORE)
    rows.add("a", Counter(rows=10, kept=9, null_item_id=1))
    rows.add("a", Counter(rows=10, kept=10))
    rows.add("b", Counter(rows=30, kept=5, after_run_date=10, null_time=15))
    rows.add("old", Counter(rows=99, kept=0, null_time=99))
    for _ in range(2):
        rows.add_days(day)
    assert parts_of(rows) == [
        ("file", "b", 30, 15),
        ("files", "the 2 new files", 50, 16),
        ("file", "a", 20, 1),
        ("day", YESTERDAY, 2, 0),
    ]
    assert parts_of(rows, min_rows=30)[-1] == ("files", "the 2 new files", 50, 16)


def test_a_new_file_alone_is_not_judged_twice():
    rows = NewestRows(frozenset({"a"}))
    rows.add("a", Counter(rows=10, kept=10))
    assert parts_of(rows) == [("file", "a", 10, 0)]


# --- judging ---


def judged(bad: int, **settings: float) -> list[Part]:
    part = Part("day", YESTERDAY, 1000, bad)
    return check_newest([part], EVENTS.model_copy(update=settings))


def test_up_to_the_share_of_the_whole_log_nothing_is_said():
    assert judged(0) == judged(10) == []


def test_above_it_a_part_is_told_and_above_ten_times_as_much_the_run_stops():
    assert [part.bad for part in (*judged(11), *judged(100))] == [11, 100]
    with pytest.raises(InputDataError) as caught:
        judged(101)
    assert f"101 of 1000 rows of {YESTERDAY} are bad" in str(caught.value)
    assert "more than 10 times events.max_bad_fraction=0.01" in str(caught.value)


def test_the_share_that_stops_a_run_is_a_key():
    assert len(judged(1000, max_bad_fraction_of_newest=1.0)) == 1
    with pytest.raises(InputDataError, match=r"events\.max_bad_fraction_of_newest=0\.05"):
        judged(51, max_bad_fraction_of_newest=0.05)


def test_the_worst_parts_are_named_and_the_rest_are_counted():
    parts = [Part("file", f"file-{n}", 1000, 900 - n) for n in range(5)]
    with pytest.raises(InputDataError, match=r"file-0; 899 of.*file-2; and of 2 more"):
        check_newest(parts, EVENTS)
    record = recorded([*parts, Part("day", YESTERDAY, 1000, 1)], parts)
    assert (record["num_bad"], record["worst"]) == (5, {"file": 0.9, "day": 0.001})
    assert record["bad"] == [vars(part) for part in parts[:3]]


# --- which files are new ---


def publish(lake: Storage, ds: str, *files: tuple[str, int, str]) -> None:
    run = RunDir(lake, ds, "r", "i", f"attempt of {ds}")
    names = ("path", "size", "version")
    content = {"inputs": [dict(zip(names, file, strict=True)) for file in files]}
    run.storage.write_bytes("manifest.json", to_json(content))
    append_entry(lake, run, sha256(to_json(content)))


def test_files_are_new_that_the_newest_served_night_did_not_list_so(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    files = (("a", 1, "v"), ("b", 2, "v"), ("c", 3, "v"))
    run = RunDir(lake, DS, "tonight", "i", "x", inputs=files)
    assert files_to_judge(run) == set()  # on a first night nothing is newer than anything
    publish(lake, "2024-05-30", files[0], ("b", 2, "other"))
    assert files_to_judge(run) == {"b", "c"}
    publish(lake, YESTERDAY, *files)
    assert files_to_judge(run) == set()
    append_rollback(lake, 1, attempt="back")
    assert files_to_judge(run) == {"b", "c"}


# --- a whole log ---


def write_log(directory: Path, *, name: str = "log", days: int = 150, bad_day: bool = False):
    """A thousand rows a day up to the run date; of the last day no row has an item."""
    rng = np.random.default_rng(0)
    seconds = np.sort(rng.integers(BEFORE - days * DAY, BEFORE, 1000 * days) // 1_000_000)
    items = pa.array([f"i{n}" for n in rng.integers(0, 50, len(seconds))])
    missing = bad_day & (seconds >= (BEFORE - DAY) // 1_000_000)
    directory.mkdir(exist_ok=True)
    table = pa.table(
        {
            "user_id": rng.integers(0, 200, len(seconds)),
            "item_id": pa.array(items.to_pylist(), mask=missing),
            "timestamp": seconds,
        }
    )
    pq.write_table(table, directory / f"{name}.parquet")
    return int(missing.sum())


def prepared(tmp_path: Path, run_id: str, *sets: str):
    text = f"lake: {tmp_path / 'lake'}\nevents: {{path: {tmp_path / 'log'}, time_unit: s}}"
    config: Config = load_config(text, list(sets))
    inputs = list_inputs(config.events, run_date=date.fromisoformat(DS))
    listing = tuple((file.path, file.size, file.version) for file in inputs)
    run = RunDir(Storage.of(config.lake), DS, run_id, "i", "a", inputs=listing)
    return main(config, run), run


def test_a_wholly_bad_day_in_a_long_log_stops_the_night(cluster, tmp_path: Path, caplog):
    num_bad = write_log(tmp_path / "log", bad_day=True)
    assert num_bad < 0.01 * 150_000
    with pytest.raises(InputDataError, match=f"{num_bad} of {num_bad} rows of {YESTERDAY} are bad"):
        prepared(tmp_path, "x")
    record, _ = prepared(tmp_path, "y", "events.max_bad_fraction_of_newest=1.0")
    assert f"{num_bad} of {num_bad} rows of {YESTERDAY} are bad" in caplog.text
    assert record.newest is not None and record.newest["worst"]["day"] == 1.0
    named = {"kind": "day", "name": YESTERDAY, "rows": num_bad, "bad": num_bad}
    assert (record.newest["num_bad"], record.newest["bad"]) == (1, [named])


def test_a_bad_file_that_the_night_before_did_not_list_stops_the_night(cluster, tmp_path: Path):
    write_log(tmp_path / "log")
    record, run = prepared(tmp_path, "x")
    assert record.newest is not None
    assert record.newest["num_bad"] == 0 and set(record.newest["worst"]) == {"day"}
    publish(run.lake, YESTERDAY, *run.inputs)
    rows = {"user_id": [1] * 1000, "item_id": ["i1"] * 1000, "timestamp": [None] * 101 + [9] * 899}
    pq.write_table(pa.table(rows), tmp_path / "log" / "more.parquet")
    with pytest.raises(InputDataError, match=r"101 of 1000 rows of .*/log/more\.parquet are bad"):
        prepared(tmp_path, "y")
