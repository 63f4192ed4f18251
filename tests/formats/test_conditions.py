"""Conditions on rows: how they are written, which rows fulfil them, and what is not read at all."""

import json
from datetime import date

import pyarrow as pa
import pytest
from checked_rows import FAR, NEW_YEAR, read, users_of
from written_logs import COLUMNS, config, inspected, refusal, write

from diffsasrec.config.where import Condition, parse_condition
from diffsasrec.errors import ConfigError
from diffsasrec.formats.conditions import fulfilled, may_be_fulfilled
from diffsasrec.inputs.log_files import list_log
from diffsasrec.inputs.log_rows import read_fragment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("event in [purchase, cart]", Condition("event", "in", ("purchase", "cart"))),
        ("event not in (view)", Condition("event", "not in", ("view",))),
        ("rating>=4", Condition("rating", ">=", (4,))),
        ("price < 1.5e3", Condition("price", "<", (1500.0,))),
        ("code == '007'", Condition("code", "=", ("007",))),
        ('name <> "a, b"', Condition("name", "!=", ("a, b",))),
        ("`event type` = buy now", Condition("event type", "=", ("buy now",))),
        ("user.country IS NOT NULL", Condition("user.country", "is not null")),
        ("refund is null", Condition("refund", "is null")),
        ("in in [in]", Condition("in", "in", ("in",))),
    ],
)
def test_a_condition_is_a_column_an_operator_and_values(text, expected):
    assert parse_condition(text) == expected


@pytest.mark.parametrize(
    "text", ["", "event", "event in purchase", "event in []", "rating >=", "a = 'b", "x is null 5"]
)
def test_what_is_no_condition_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"write it as in event_type in \[purchase, cart\]"):
        config("log", where=[text])


TEXTS = pa.chunked_array([["buy", "7", "7.0", None, "x8"]])
NUMBERS = pa.chunked_array([[1, 7, None, 2**53 + 1, 8]])


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("c in [buy, 7]", TEXTS, [0, 1, 2]),
        ("c = '7'", TEXTS, [1]),
        ("c != buy", TEXTS, [1, 2, 4]),
        ("c not in [buy, 7]", TEXTS, [4]),
        ("c >= 7", TEXTS, [1, 2]),
        ("c >= buy", TEXTS, [0, 4]),
        ("c is null", TEXTS, [3]),
        ("c is not null", TEXTS, [0, 1, 2, 4]),
        ("c > 1", NUMBERS, [1, 3, 4]),
        ("c = 9007199254740993", NUMBERS, [3]),
        ("c < 7.5", NUMBERS, [0, 1]),
        ("c = 1", pa.chunked_array([[1.0, 1.5, float("nan"), None]]), [0]),
        ("c is null", pa.chunked_array([[1.0, 1.5, float("nan"), None]]), [2, 3]),
        ("c = true", pa.chunked_array([[True, False, None]]), [0]),
        ("c = a", pa.chunked_array([["a", None]]).dictionary_encode(), [0]),
        ("c = a", pa.chunked_array([pa.nulls(2)]), []),
    ],
)
def test_which_rows_fulfil_a_condition(text, column, expected):
    mask = fulfilled([parse_condition(text)], {"c": column})
    assert [n for n, value in enumerate(mask.to_pylist()) if value] == expected


@pytest.mark.parametrize(
    ("text", "may_be"),
    [
        ("c = 5", True),
        ("c = 9", False),
        ("c in [1, 10]", False),
        ("c > 8", False),
        ("c >= 8", True),
        ("c < 3", False),
        ("c <= 3", True),
        ("c != 5", True),
        ("c is null", True),
        ("c = five", True),
    ],
)
def test_statistics_tell_that_no_row_fulfils_a_condition(text, may_be):
    assert may_be_fulfilled(parse_condition(text), 3, 8) is may_be


EVENTS = ["buy", "view", None, "buy", "cart"]
STARS = [5, 4, 3, None, 2]


def write_log(tmp_path, kind):
    rows = [
        {"user_id": f"u{n}", "item_id": "i", "timestamp": n, "event": EVENTS[n], "stars": STARS[n]}
        for n in range(5)
    ]
    path = tmp_path / f"log.{kind}"
    if kind == "parquet":
        return write(path, pa.Table.from_pylist(rows), row_group_size=2)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("where", "users"),
    [
        (["event in [buy, cart]"], ["u0", "u3", "u4"]),
        (["event = buy", "stars >= 4"], ["u0"]),
        ("stars > 2", ["u0", "u1", "u2"]),
        (["event is not null", "user_id != u0"], ["u1", "u3", "u4"]),
    ],
)
def test_rows_that_do_not_fulfil_all_conditions_are_filtered_and_counted(
    tmp_path, kind, where, users
):
    path = write_log(tmp_path, kind)
    kept, counts, _ = read(path, format=kind, time_unit="s", where=where)
    assert users_of(kept) == users
    assert counts["rows"] == 5
    assert counts["filtered"] == 5 - len(users)


def test_a_filtered_row_is_not_bad(tmp_path):
    path = write(tmp_path / "a.parquet", {**COLUMNS, "user_id": ["u", None]})
    _, counts, bad = read(path, time_unit="s", where=["item_id = 1"])
    assert bad == [] and counts["filtered"] == 1


def test_a_row_group_is_not_read_where_its_statistics_say_that_no_row_fulfils(tmp_path):
    path = write(tmp_path / "a.parquet", row_group_size=1)
    events = config(path, where=["item_id = 2"])
    chunks = [c for f in inspected(path).fragments for c in read_fragment(f, events)]
    assert [(dict(c.skipped), c.rows.num_rows) for c in chunks] == [
        ({"filtered": 1}, 0),
        ({"filtered": 0}, 1),
    ]
    assert chunks[0].rows["user_id"].type == pa.null()  # nothing was read


def test_a_condition_on_what_is_not_there_or_of_another_type_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {**COLUMNS, "at": pa.array([5, 6], pa.timestamp("s"))})
    assert "has no column kind (events.where); its columns: user_id" in refusal(
        path, where=["kind = buy"]
    )
    message = refusal(path, ConfigError, where=["item_id = buy"])
    assert "column item_id is int64" in message and "takes numbers" in message
    assert "only is null" in refusal(path, ConfigError, where=["at > 5"])


# --- events.lookback_days ---

DAY = 86_400


@pytest.mark.parametrize("kind", [pa.int64(), pa.timestamp("s"), pa.timestamp("ns", "UTC")])
def test_only_so_many_days_are_read_and_the_others_are_counted(tmp_path, kind):
    seconds = [NEW_YEAR // 10**6 + DAY * n for n in range(6)]
    times = pa.array(seconds, pa.timestamp("s")).cast(kind)
    ids = [str(n) for n in range(6)]
    columns = {"user_id": ids, "item_id": ids, "timestamp": times}
    path = write(tmp_path / "a.parquet", columns, row_group_size=3)
    unit = "s" if kind == pa.int64() else None
    before = NEW_YEAR + 5 * DAY * 10**6
    settings = {"time_unit": unit, "lookback_days": 1}
    kept, counts, _ = read(path, before=before, **settings)
    assert users_of(kept) == ["4"]
    assert counts == {"rows": 6, "kept": 1, "before_lookback": 4, "after_run_date": 1}
    fragments = inspected(path, **settings).fragments
    after = before - DAY * 10**6
    [skipped] = read_fragment(fragments[0], config(path, **settings), after=after)
    assert skipped.skipped == {"before_lookback": 3}
    everything = read(path, before=FAR, time_unit=unit)[1]
    assert everything == {"rows": 6, "kept": 6}


def test_partitions_of_earlier_days_are_left_out(tmp_path):
    for day in ("2024-01-01", "2024-01-07", "2024-01-08", "2024-01-09"):
        (tmp_path / f"dt={day}").mkdir()
        write(tmp_path / f"dt={day}" / "a.parquet")
    events = config(tmp_path, partition_column="dt", lookback_days=2)
    found = list_log(events, run_date=date(2024, 1, 10))
    assert [file.path.split("-")[-1][:2] for file in found.files] == ["07", "08", "09"]
    [left_out] = found.left_out
    assert left_out.number == 1
    assert "before 2024-01-08, the start of events.lookback_days=2" in left_out.reason
