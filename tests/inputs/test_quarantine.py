"""Bad rows by reason, file and day: what a person looks for after a dirty night."""

import pyarrow as pa
import pytest

from diffsasrec.files.storage import Storage
from diffsasrec.inputs.quarantine import count_bad, days_of, read_bad_rows

FEB_10 = 1_707_523_200  # 2024-02-10 00:00 UTC, in seconds


def bad_rows(times: pa.Array, *, path: str = "log.parquet", **more: pa.Array) -> pa.Table:
    return pa.table(
        {
            "who": pa.array(["u"] * len(times)),
            "what": pa.nulls(len(times), pa.string()),
            "when": times,
            "reason": pa.array(["null_item_id"] * len(times)),
            **more,
            "source_path": pa.array([path] * len(times)),
        }
    )


def test_the_day_is_that_of_the_time_in_utc():
    times = pa.array([FEB_10, FEB_10 - 1, FEB_10 + 86_399])
    days = days_of(bad_rows(times), time_unit="s")
    assert days.to_pylist() == ["2024-02-10", "2024-02-09", "2024-02-10"]


def test_a_time_that_is_none_has_no_day():
    times = pa.array([None, -5, 2**62])
    assert days_of(bad_rows(times), time_unit="s").to_pylist() == [None, None, None]


def test_an_unreadable_time_that_holds_a_date_is_of_that_day():
    times = pa.array(["2024-02-10T25:61", "yesterday", "2024-02-11T10:00:00Z"])
    days = days_of(bad_rows(times), time_unit=None)
    assert days.to_pylist() == ["2024-02-10", None, "2024-02-11"]


def test_a_line_that_is_no_row_is_of_the_day_that_stands_in_it():
    text = pa.array(['u,"i,2024-02-12 10:00', None])
    days = days_of(bad_rows(pa.nulls(2, pa.string()), text=text), time_unit=None)
    assert days.to_pylist() == ["2024-02-12", None]


def test_a_row_without_a_time_is_of_the_day_of_its_partition():
    path = "log/dt=2024-02-13/part-00000.parquet"
    days = days_of(bad_rows(pa.array([None, FEB_10]), path=path), time_unit="s")
    assert days.to_pylist() == ["2024-02-13", "2024-02-10"]


def test_integers_whose_unit_nobody_knows_have_no_day():
    assert days_of(bad_rows(pa.array([FEB_10])), time_unit=None).to_pylist() == [None]


@pytest.mark.parametrize(("most_rows", "read"), [(10, (2, 0)), (1, (1, 1))])
def test_the_files_of_a_run_are_added_up_until_there_are_enough(tmp_path, most_rows, read):
    run = Storage.of(str(tmp_path))
    for number in range(2):
        rows = bad_rows(pa.array([FEB_10, FEB_10]), path=f"{number}.parquet")
        run.write_table(f"quarantine/part-{number:05d}.parquet", rows)
    found = read_bad_rows(run, time_unit="s", most_rows=most_rows)
    assert (found.num_files, found.num_left) == read
    assert found.table.to_pylist() == [
        {"reason": "null_item_id", "source_path": f"{n}.parquet", "day": "2024-02-10", "rows": 2}
        for n in range(read[0])
    ]


def test_rows_are_counted_by_reason_file_and_day():
    counted = count_bad(bad_rows(pa.array([FEB_10, FEB_10, None])), time_unit="s")
    assert [(row["day"], row["rows"]) for row in counted.to_pylist()] == [
        ("2024-02-10", 2),
        (None, 1),
    ]
