"""Columns of Parquet as init looks at them, whatever type they are stored in."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.errors import InputDataError
from jobs.init.choosing import choose
from jobs.init.guess import event_entries
from jobs.init.newest import run_date
from jobs.init.sniff.plain import merged, plain

START = 1704067200  # 2024-01-01
USERS, ITEMS = [n % 20 for n in range(300)], [n // 3 for n in range(300)]
TIMES = [START + 28800 * n for n in range(300)]


def keys_of(path: Path) -> dict[str, object]:
    return {entry.key: entry.value for entry in event_entries(choose(str(path)).log)}


def write(path: Path, **columns: object) -> Path:
    pq.write_table(
        pa.table({"user_id": USERS, "item_id": ITEMS, "timestamp": TIMES, **columns}), path
    )
    return path


@pytest.mark.parametrize(
    ("stored", "values"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([Decimal(7), None], pa.decimal128(20, 0)), [7, None]),
        (pa.array([Decimal(10**25)], pa.decimal128(38, 0)), [str(10**25)]),
        (pa.array([Decimal("1.5")], pa.decimal128(9, 3)), [1.5]),
        (pa.array([1.0, float("nan")]), [1.0, None]),
        (pa.array([date(2024, 1, 2)], pa.date64()), [datetime(2024, 1, 2)]),
        (
            pa.array([datetime(2024, 1, 2, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")),
            [datetime(2024, 1, 2)],
        ),
    ],
)
def test_a_value_is_the_same_however_it_is_stored(stored: pa.Array, values: list[object]):
    assert plain(pa.chunked_array([stored])).to_pylist() == values


def test_parts_of_other_types_are_one_table_and_what_is_text_in_some_is_named():
    parts = [pa.table({"a": [1], "b": [1]}), pa.table({"a": ["x"], "b": [0.5], "c": [True]})]
    table, mixed = merged(parts)
    assert table.to_pydict() == {"a": ["1", "x"], "b": [1.0, 0.5], "c": [None, True]}
    assert mixed == {"a"}


def test_columns_within_structs_are_found_and_lists_beside_them_are_not_read(tmp_path: Path):
    table = pa.table(
        {
            "ctx": [{"user": {"id": u, "tags": ["a"]}} for u in USERS],
            "item": [{"sku": i} for i in ITEMS],
            "event": [{"ts": t * 1000} for t in TIMES],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = keys_of(tmp_path)
    assert (found["events.user_column"], found["events.item_column"]) == ("ctx.user.id", "item.sku")
    assert (found["events.time_column"], found["events.time_unit"]) == ("event.ts", "ms")


def test_a_column_with_a_dot_in_its_name_comes_before_one_within_a_struct(tmp_path: Path):
    table = {"user": [{"id": 7}] * 300, "user.id": USERS, "item_id": ITEMS, "timestamp": TIMES}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert choose(str(tmp_path)).log.user.column.distinct == 20


def test_nanoseconds_and_the_nan_of_a_user_who_is_missing_are_understood(tmp_path: Path):
    users = pa.array([float("nan") if n % 10 == 0 else float(u) for n, u in enumerate(USERS)])
    write(tmp_path / "a.parquet", user_id=users, timestamp=[t * 10**9 for t in TIMES])
    found = keys_of(tmp_path)
    assert (found["events.user_column"], found["events.time_unit"]) == ("user_id", "ns")
    assert found["events.where"] == ["user_id is not null"]


def test_ids_that_are_texts_in_one_file_alone_get_a_type(tmp_path: Path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", user_id=[str(u) for u in USERS])
    assert keys_of(tmp_path)["events.id_type"] == "int64"
    write(tmp_path / "b.parquet", user_id=[f"u{u}" for u in USERS])
    assert keys_of(tmp_path)["events.id_type"] == "string"


def test_times_with_and_without_a_zone_are_of_one_log(tmp_path: Path):
    moments = pa.array(TIMES, pa.int64()).cast(pa.timestamp("s"))
    write(tmp_path / "a.parquet", timestamp=moments)
    write(tmp_path / "b.parquet", timestamp=moments.cast(pa.timestamp("ms", "UTC")))
    assert str(run_date(choose(str(tmp_path)).log)) == "2024-04-10"


def test_a_condition_names_no_column_that_some_files_lack(tmp_path: Path):
    write(tmp_path / "a-1.parquet", quantity=[-1 if n % 9 == 0 else 1 for n in range(300)])
    assert keys_of(tmp_path)["events.where"] == ["quantity > 0"]
    write(tmp_path / "a-2.parquet")
    assert "events.where" not in keys_of(tmp_path)


@pytest.mark.parametrize(
    ("users", "says"),
    [
        ([b"0123456789abcdef"] * 300, "user_id is binary: cast it to text or to an integer"),
        ([[u] for u in USERS], "user_id holds lists: write a row for each of their values"),
        (
            pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * 300, pa.binary(16))),
            r"user_id is fixed_size_binary\[16\]: cast it",
        ),
    ],
)
def test_why_a_column_can_t_hold_ids_is_said(tmp_path: Path, users: object, says: str):
    write(tmp_path / "a.parquet", user_id=users)
    with pytest.raises(InputDataError, match=says):
        choose(str(tmp_path))


def test_a_column_that_is_there_twice_is_named_unless_nothing_needs_it(tmp_path: Path):
    columns = [pa.array(USERS), pa.array(ITEMS), pa.array(ITEMS), pa.array(TIMES)]
    for name in ("x", "item_id"):
        names = ["user_id", name, name, "timestamp"]
        pq.write_table(
            pa.table([*columns, pa.array(ITEMS)], [*names, "sku"]), tmp_path / "a.parquet"
        )
        assert keys_of(tmp_path)["events.item_column"] == "sku"
    pq.write_table(pa.table(columns, names), tmp_path / "a.parquet")
    with pytest.raises(InputDataError, match="item_id is there twice: rename one"):
        choose(str(tmp_path))
