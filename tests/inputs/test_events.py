"""Raw rows -> events: units of time, types of ids, every reason for not being an event."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import fragment_rows, fragments_of, read_events
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.row_checks import check_rows, quarantine_rows
from diffsasrec.schema import id_hash

NEW_YEAR = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z in microseconds
RUN_DATE = NEW_YEAR + 86_400_000_000
FAR = 2**62
CSV_HEADER = b"user_id,item_id,timestamp\n"


def check(users, items, times, *, time_unit="us", ids=None, before=RUN_DATE):
    """Checks the rows of three arrays; `ids`: the canonical type of both ids."""
    raw = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    ids = ids or pa.string()
    return check_rows(raw, time_unit=time_unit, user_type=ids, item_type=ids, before=before)


def check_times(times, *, time_unit=None, before=FAR):
    ids = pa.array(["x"] * len(times), pa.string())
    return check(ids, ids, times, time_unit=time_unit, before=before)


def kept_times(times, *, time_unit=None, before=FAR):
    return check_times(times, time_unit=time_unit, before=before).events["timestamp"].to_pylist()


def time_reasons(times, *, time_unit=None):
    return check_times(times, time_unit=time_unit).bad["reason"].to_pylist()


def read(path, *, before=FAR, **settings):
    """events, counts (malformed lines among them) and quarantine rows of a file, as plain values"""
    events = EventsConfig(path=str(path), **settings)
    log = inspect_inputs(list_inputs(events, run_date=date(2030, 1, 1)), events)
    types = (log.user_type, log.item_type)
    kept, quarantine, counts = [], [], {}
    for fragment in log.fragments:
        for chunk, checked in read_events(fragment, events=events, log_types=types, before=before):
            kept += checked.events.to_pylist()
            malformed = {"rows": len(chunk.malformed), "malformed_row": len(chunk.malformed)}
            for name, number in [*checked.counts.items(), *malformed.items()]:
                counts[name] = counts.get(name, 0) + number
            table = quarantine_rows(checked, chunk, events, fragment.path)
            quarantine += table.to_pylist() if table is not None else []
    return kept, counts, quarantine


def read_csv(tmp_path, text, **settings):
    path = tmp_path / "log.csv"
    path.write_bytes(text)
    return read(path, format="csv", **settings)


def read_jsonl(tmp_path, text, **settings):
    path = tmp_path / "log.jsonl"
    path.write_bytes(text)
    return read(path, format="jsonl", **settings)


def users_of(events):
    return [event["user_id"] for event in events]


# --- times: one moment in every form ---


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", 1_704_067_200),
        ("ms", 1_704_067_200_000),
        ("us", 1_704_067_200_000_000),
        ("ns", 1_704_067_200_000_000_000),
    ],
)
def test_integers_of_every_unit_are_one_moment(unit, value):
    assert kept_times(pa.array([value]), time_unit=unit) == [NEW_YEAR]
    assert kept_times(pa.array([value], pa.uint64()), time_unit=unit) == [NEW_YEAR]
    assert kept_times(pa.array([str(value)]), time_unit=unit) == [NEW_YEAR]


@pytest.mark.parametrize("width", [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32()])
def test_narrow_integers_are_times_too(width):
    assert kept_times(pa.array([0, 100], width), time_unit="s") == [0, 100_000_000]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_arrow_timestamps_are_one_moment_and_naive_ones_are_utc(unit, zone):
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    if zone is None:
        moment = moment.replace(tzinfo=None)
    assert kept_times(pa.array([moment], pa.timestamp(unit, tz=zone))) == [NEW_YEAR]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01 00:00:00",
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00.000000+00:00",
        "2024-01-01T02:00:00+02:00",
        "2023-12-31T19:00:00-05:00",
        "2024-01-01T05:30:00+0530",
        "20240101T000000Z",
    ],
)
def test_iso_strings_are_one_moment_and_naive_ones_are_utc(text):
    assert kept_times(pa.array([text])) == [NEW_YEAR]
    assert kept_times(pa.array([text], pa.large_string())) == [NEW_YEAR]
    assert kept_times(pa.array([text]).dictionary_encode()) == [NEW_YEAR]


def test_iso_strings_of_different_forms_may_stand_in_one_column():
    times = pa.array(["2024-01-01", "2024-01-01T02:00:00+02:00", "2024-01-01T00:00:00.000001Z"])
    assert kept_times(times) == [NEW_YEAR, NEW_YEAR, NEW_YEAR + 1]


def test_what_is_finer_than_a_microsecond_is_cut_off():
    assert kept_times(pa.array([1_999]), time_unit="ns") == [1]
    assert kept_times(pa.array([1_999], pa.timestamp("ns"))) == [1]
    assert kept_times(pa.array(["1970-01-01T00:00:00.000001999Z"])) == [1]


@settings(deadline=None, max_examples=50)
@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_an_iso_string_with_any_zone_is_the_moment_that_python_reads(moment, minutes):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert kept_times(pa.array([moment.isoformat()])) == [expected]


def test_a_far_date_is_read_whatever_precision_its_neighbours_have():
    far, fine = "9999-12-31", "2024-01-01T00:00:00.000000001Z"
    assert kept_times(pa.array([far])) == [253_402_214_400_000_000]
    assert kept_times(pa.array([fine, far])) == [NEW_YEAR, 253_402_214_400_000_000]


# --- times: what is none ---


@pytest.mark.parametrize(
    "text",
    ["", "now", "today", "yesterday", "24-01-01", "2024-02-30", "2024-13-01", "01/02/2024", "x"],
)
def test_a_string_that_is_no_date_is_unparsable(text):
    assert time_reasons(pa.array(["2024-01-01", text])) == ["unparsable_time"]


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e9", " 5", "5 ", "0x10", "--5", "2024-01-01"])
def test_a_string_that_is_no_integer_is_unparsable_when_there_is_a_unit(text):
    assert time_reasons(pa.array(["5", text]), time_unit="s") == ["unparsable_time"]


@pytest.mark.parametrize(
    ("unit", "largest"), [("s", 9_223_372_036_854), ("ms", 9_223_372_036_854_775)]
)
def test_a_time_beyond_64_bits_of_microseconds_is_out_of_range(unit, largest):
    times = pa.array([largest, largest + 1, 2 * largest, 2**63 - 1])
    checked = check_times(times, time_unit=unit)
    assert checked.bad["reason"].to_pylist() == ["time_out_of_range"] * 3
    assert checked.counts["after_run_date"] == 1


def test_an_unsigned_time_beyond_64_bits_is_a_bad_row_and_no_crash():
    checked = check_times(pa.array([5, 2**64 - 1], pa.uint64()), time_unit="us")
    assert checked.events["timestamp"].to_pylist() == [5]
    assert checked.bad.num_rows == 1


def test_a_time_before_1970_is_negative():
    assert time_reasons(pa.array([-1, 0, 1]), time_unit="s") == ["negative_time"]
    assert time_reasons(pa.array([-1, 0, 1]), time_unit="ns") == ["negative_time"]
    assert time_reasons(pa.array(["1969-12-31T23:59:59.999999Z"])) == ["negative_time"]
    assert time_reasons(pa.array([-1], pa.timestamp("ms"))) == ["negative_time"]


def test_a_column_of_nulls_has_no_time():
    assert time_reasons(pa.array([None, None], pa.string())) == ["null_time"] * 2
    assert time_reasons(pa.array([None], pa.int64()), time_unit="s") == ["null_time"]
    assert time_reasons(pa.array([None], pa.timestamp("us"))) == ["null_time"]


# --- the run date ---


def test_an_event_exactly_at_the_run_date_does_not_exist():
    times = pa.array([RUN_DATE - 1, RUN_DATE, RUN_DATE + 1])
    checked = check_times(times, time_unit="us", before=RUN_DATE)
    assert checked.events["timestamp"].to_pylist() == [RUN_DATE - 1]
    assert checked.counts == {"rows": 3, "kept": 1, "after_run_date": 2}


def test_later_events_are_counted_and_not_quarantined():
    checked = check_times(pa.array([RUN_DATE]), time_unit="us", before=RUN_DATE)
    assert checked.bad.num_rows == 0
    assert checked.counts["after_run_date"] == 1


# --- one bad row of every kind ---


def test_every_kind_of_bad_row_has_its_reason():
    rows = [
        ("u", "i", "5", None),
        (None, "i", "5", "null_user_id"),
        ("u", None, "5", "null_item_id"),
        ("u", "i", None, "null_time"),
        ("", "i", "5", "empty_user_id"),
        ("u", "", "5", "empty_item_id"),
        ("u", "i", "soon", "unparsable_time"),
        ("u", "i", "99999999999999", "time_out_of_range"),
        ("u", "i", "-5", "negative_time"),
    ]
    users, items, times, reasons = (list(column) for column in zip(*rows, strict=True))
    checked = check(pa.array(users), pa.array(items), pa.array(times), time_unit="s")
    assert checked.bad["reason"].to_pylist() == reasons[1:]
    assert checked.events.to_pylist() == [{"user_id": "u", "item_id": "i", "timestamp": 5_000_000}]
    assert checked.counts == {"rows": 9, "kept": 1, **dict.fromkeys(reasons[1:], 1)}


def test_an_id_of_the_wrong_type_has_its_reason():
    users, items = pa.array(["1", "x", "3"]), pa.array(["1", "2", "3.0"])
    checked = check(users, items, pa.array([1, 1, 1]), ids=pa.int64())
    assert checked.bad["reason"].to_pylist() == ["wrong_type_user_id", "wrong_type_item_id"]
    assert checked.counts == {
        "rows": 3,
        "kept": 1,
        "wrong_type_user_id": 1,
        "wrong_type_item_id": 1,
    }


def test_a_row_that_is_bad_in_several_ways_is_counted_once():
    none = pa.array([None], pa.string())
    checked = check(none, none, none, time_unit="s")
    assert checked.counts == {"rows": 1, "null_user_id": 1}
    assert checked.bad.num_rows == 1


def test_bad_rows_keep_their_raw_values():
    users = pa.array([7, None], pa.int16())
    checked = check(users, users, pa.array(["soon", "5"]), time_unit="s", ids=pa.int64())
    assert checked.bad.to_pylist() == [
        {"user_id": 7, "item_id": 7, "timestamp": "soon", "reason": "unparsable_time"},
        {"user_id": None, "item_id": None, "timestamp": "5", "reason": "null_user_id"},
    ]
    assert checked.bad.schema.field("user_id").type == pa.int16()


VALUES = st.sampled_from(["5", "-5", "x", "", "2024-01-01", "99999999999999", None])
TIMES = st.sampled_from(["5", "86400", "999999999999", "-5", "x", "", "99999999999999", None])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(VALUES, VALUES, TIMES), max_size=30), st.sampled_from(["int", "string"]))
def test_every_row_is_kept_or_counted_under_one_reason(rows, kind):
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(3)]
    ids = pa.int64() if kind == "int" else pa.string()
    checked = check(*columns, time_unit="s", ids=ids, before=RUN_DATE)
    reasons = sum(checked.counts.values()) - checked.counts["rows"] - checked.counts["kept"]
    assert checked.counts["rows"] == len(rows)
    assert checked.counts["kept"] == checked.events.num_rows
    assert checked.counts["kept"] + reasons == len(rows)
    assert checked.bad.num_rows + checked.counts["after_run_date"] == reasons


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(VALUES, VALUES, TIMES), min_size=1, max_size=20))
def test_the_fate_of_a_row_does_not_depend_on_its_neighbours(rows):
    def reasons(some):
        columns = [pa.array([row[i] for row in some], pa.string()) for i in range(3)]
        return check(*columns, time_unit="s").bad["reason"].to_pylist()

    assert reasons(rows) == [reason for row in rows for reason in reasons([row])]


def test_no_rows_are_no_events():
    none = pa.array([], pa.string())
    checked = check(none, none, none, time_unit=None)
    assert checked.events.num_rows == checked.bad.num_rows == 0
    assert checked.counts["rows"] == 0


def test_rows_may_come_in_several_chunks():
    ids = pa.chunked_array([["a"], ["b", None]])
    checked = check(ids, ids, pa.chunked_array([[1, 2], [3]]))
    assert checked.events["user_id"].to_pylist() == ["a", "b"]


# --- ids ---


@pytest.mark.parametrize("width", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
def test_signed_ids_of_every_width_are_the_same_ids(width):
    ids = pa.array([-1, 0, 100], width)
    checked = check(ids, ids, pa.array([1, 2, 3]), ids=pa.int64())
    assert checked.events["user_id"].to_pylist() == [-1, 0, 100]
    assert checked.events.schema.field("user_id").type == pa.int64()


@pytest.mark.parametrize("width", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
def test_unsigned_ids_of_every_width_are_the_same_ids(width):
    ids = pa.array([0, 100], width)
    checked = check(ids, ids, pa.array([1, 2]), ids=pa.uint64())
    assert checked.events["item_id"].to_pylist() == [0, 100]
    assert checked.events.schema.field("item_id").type == pa.uint64()


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()])
def test_strings_of_every_kind_are_the_same_ids(text):
    ids = pa.array(["a", "b"]).cast(text)
    checked = check(ids, ids, pa.array([1, 2]))
    assert checked.events["user_id"].to_pylist() == ["a", "b"]
    assert checked.events.schema.field("user_id").type == pa.string()


def test_dictionaries_of_strings_and_of_integers_are_decoded():
    users, items = pa.array(["a", None, "a"]).dictionary_encode(), pa.array([1, 2, 3], pa.int8())
    raw = pa.table({"user_id": users, "item_id": items.dictionary_encode(), "timestamp": [1, 2, 3]})
    checked = check_rows(
        raw, time_unit="us", user_type=pa.string(), item_type=pa.int64(), before=RUN_DATE
    )
    assert checked.events["user_id"].to_pylist() == ["a", "a"]
    assert checked.events["item_id"].to_pylist() == [1, 3]
    assert checked.counts["null_user_id"] == 1


def test_integers_can_be_read_as_strings():
    ids = pa.array([-5, 2**40])
    assert users_of(check(ids, ids, pa.array([1, 2])).events.to_pylist()) == ["-5", str(2**40)]


def test_unsigned_ids_beyond_int64_do_not_fit_it():
    ids = pa.array([1, 2**63 - 1, 2**63], pa.uint64())
    checked = check(ids, pa.array([1, 1, 1]), pa.array([1, 2, 3]), ids=pa.int64())
    assert users_of(checked.events.to_pylist()) == [1, 2**63 - 1]
    assert checked.bad["reason"].to_pylist() == ["wrong_type_user_id"]
    assert checked.bad["user_id"].to_pylist() == [2**63]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("+7", 7),
        ("007", 7),
        ("-7", -7),
        ("999999999999999999", 10**18 - 1),
        ("1000000000000000000", 10**18),
        ("-1000000000000000000", -(10**18)),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_a_decimal_number_of_64_bits_is_an_integer_id(text, number):
    checked = check(pa.array([text]), pa.array(["1"]), pa.array([1]), ids=pa.int64())
    assert users_of(checked.events.to_pylist()) == [number]


@pytest.mark.parametrize(
    "text",
    ["9223372036854775808", "-9223372036854775809", "99999999999999999999", "1.0", "1e3", " 1",
     "1_000", "0x1", "abc", "-", "+", "١٢"],
)  # fmt: skip
def test_anything_else_is_no_integer_id(text):
    checked = check(pa.array([text, "1"]), pa.array(["1", "1"]), pa.array([1, 1]), ids=pa.int64())
    assert checked.bad["reason"].to_pylist() == ["wrong_type_user_id"]
    assert checked.bad["user_id"].to_pylist() == [text]


def test_an_id_that_is_no_text_is_a_bad_row():
    # a Parquet writer may call bytes a string; nothing later can hash or print them
    broken = pa.array([b"good", b"\xff"]).view(pa.string())
    checked = check(broken, pa.array(["i", "i"]), pa.array([1, 2]))
    assert checked.counts == {"rows": 2, "kept": 1, "invalid_utf8_user_id": 1}
    assert checked.bad["user_id"].to_pylist() == ["\\xff"]
    assert len(id_hash(checked.events["user_id"].combine_chunks())) == 1


# --- quarantine ---


def test_quarantine_has_the_columns_of_the_log_the_reason_and_the_path(tmp_path):
    path = tmp_path / "log.parquet"
    columns = {"who": ["u", None, "v"], "what": [1, 2, 3], "when": [5, 6, -7]}
    pq.write_table(pa.table(columns), path)
    names = {"user_column": "who", "item_column": "what", "time_column": "when"}
    kept, _, quarantine = read(path, time_unit="s", **names)
    assert kept == [{"user_id": "u", "item_id": 1, "timestamp": 5_000_000}]
    here = {"source_path": str(path)}
    assert quarantine == [
        {"who": None, "what": 2, "when": 6, "reason": "null_user_id", **here},
        {"who": "v", "what": 3, "when": -7, "reason": "negative_time", **here},
    ]


def test_a_clean_chunk_has_nothing_to_quarantine(tmp_path):
    _, counts, quarantine = read_csv(tmp_path, CSV_HEADER + b"u,i,5\n", time_unit="s")
    assert quarantine == []
    assert counts == {"rows": 1, "kept": 1, "malformed_row": 0}


@pytest.mark.parametrize(
    "users",
    [
        pa.array(["u", None]).dictionary_encode(),
        pa.array(["u", None], pa.large_string()),
        pa.array([1, None], pa.uint64()),
    ],
)
def test_quarantine_keeps_the_type_of_the_log(tmp_path, users):
    path = tmp_path / "log.parquet"
    moments = pa.array([NEW_YEAR, NEW_YEAR], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"user_id": users, "item_id": [1, 2], "timestamp": moments}), path)
    kept, _, quarantine = read(path)
    assert len(kept) == 1
    assert [(row["user_id"], row["timestamp"]) for row in quarantine] == [
        (None, datetime(2024, 1, 1, tzinfo=UTC))
    ]


# --- Parquet, CSV and JSON lines, with one bad row of every kind ---


def test_a_parquet_log_is_accounted_for_exactly(tmp_path):
    path = tmp_path / "log.parquet"
    users = ["u", None, "", "u", "u", "u", "u", "u"]
    items = ["i", "i", "i", None, "", "i", "i", "i"]
    times = [5, 5, 5, 5, 5, None, -5, 10]
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), path)
    kept, counts, quarantine = read(path, time_unit="s", before=10_000_000)
    assert kept == [{"user_id": "u", "item_id": "i", "timestamp": 5_000_000}]
    reasons = ["null_user_id", "empty_user_id", "null_item_id", "empty_item_id", "null_time"]
    reasons.append("negative_time")
    assert [row["reason"] for row in quarantine] == reasons
    singles = dict.fromkeys([*reasons, "kept", "after_run_date"], 1)
    assert counts == {"rows": 8, "malformed_row": 0, **singles}


def test_a_csv_log_is_accounted_for_exactly(tmp_path):
    lines = [b"u,i,5", b",i,5", b'"",i,5', b"u,,5", b'u,"",5', b"u,i,", b"u,i,x", b"u,i,-5"]
    lines += [b"u,i,99999999999999", b"u,i,10", b"u,i"]
    text = CSV_HEADER + b"\n".join(lines) + b"\n"
    kept, counts, quarantine = read_csv(tmp_path, text, time_unit="s", before=10_000_000)
    assert kept == [{"user_id": "u", "item_id": "i", "timestamp": 5_000_000}]
    reasons = ["null_user_id", "empty_user_id", "null_item_id", "empty_item_id", "null_time"]
    reasons += ["unparsable_time", "negative_time", "time_out_of_range", "malformed_row"]
    assert [row["reason"] for row in quarantine] == reasons
    assert counts == {"rows": 11, **dict.fromkeys([*reasons, "kept", "after_run_date"], 1)}


def test_a_json_lines_log_is_accounted_for_exactly(tmp_path):
    lines = [
        b'{"user_id": "u", "item_id": "i", "timestamp": 5}',
        b'{"item_id": "i", "timestamp": 5}',
        b'{"user_id": "", "item_id": "i", "timestamp": 5}',
        b'{"user_id": "u", "item_id": null, "timestamp": 5}',
        b'{"user_id": "u", "item_id": "", "timestamp": 5}',
        b'{"user_id": "u", "item_id": "i"}',
        b'{"user_id": "u", "item_id": "i", "timestamp": 5.5}',
        b'{"user_id": "u", "item_id": "i", "timestamp": -5}',
        b'{"user_id": "u", "item_id": "i", "timestamp": 99999999999999}',
        b'{"user_id": "u", "item_id": "i", "timestamp": 10}',
        b'{"user_id": "u", "item',
    ]
    text = b"\n".join(lines)
    kept, counts, quarantine = read_jsonl(tmp_path, text, time_unit="s", before=10_000_000)
    assert kept == [{"user_id": "u", "item_id": "i", "timestamp": 5_000_000}]
    reasons = ["null_user_id", "empty_user_id", "null_item_id", "empty_item_id", "null_time"]
    reasons += ["unparsable_time", "negative_time", "time_out_of_range", "malformed_row"]
    assert [row["reason"] for row in quarantine] == reasons
    assert counts == {"rows": 11, **dict.fromkeys([*reasons, "kept", "after_run_date"], 1)}


# --- CSV ---


def test_ragged_csv_rows_are_quarantined_as_text(tmp_path):
    text = CSV_HEADER + b"u,i,5\nu,i\nu,i,5,6\nv,i,5\n"
    kept, _, quarantine = read_csv(tmp_path, text, time_unit="s")
    assert users_of(kept) == ["u", "v"]
    assert [row["text"] for row in quarantine] == ["u,i", "u,i,5,6"]
    assert quarantine[0] == {
        "user_id": None,
        "item_id": None,
        "timestamp": None,
        "reason": "malformed_row",
        "text": "u,i",
        "source_path": str(tmp_path / "log.csv"),
    }


def test_a_csv_file_of_ragged_rows_alone_is_all_quarantine(tmp_path):
    kept, counts, quarantine = read_csv(tmp_path, CSV_HEADER + b"u\nv\n", time_unit="s")
    assert kept == []
    assert counts["rows"] == counts["malformed_row"] == len(quarantine) == 2


def test_a_quote_that_never_closes_costs_its_own_line_alone(tmp_path):
    text = CSV_HEADER + b'a,i,5\n"b,i,5\nc,i,5\nd,i,5\n'
    kept, counts, quarantine = read_csv(tmp_path, text, time_unit="s")
    assert users_of(kept) == ["a", "c", "d"]
    assert counts["rows"] == 4
    assert [row["text"] for row in quarantine] == ['"b,i,5']


def test_csv_ids_stay_strings_as_they_are_written(tmp_path):
    kept, _, _ = read_csv(tmp_path, CSV_HEADER + b'007,"a, b",5\nNA,null,5\n', time_unit="s")
    assert [(event["user_id"], event["item_id"]) for event in kept] == [
        ("007", "a, b"),
        ("NA", "null"),
    ]


def test_csv_ids_can_be_integers(tmp_path):
    text = (
        CSV_HEADER + b"9223372036854775807,-1000000000000000001,5\n9223372036854775808,1,5\nx,1,5\n"
    )
    kept, counts, quarantine = read_csv(tmp_path, text, time_unit="s", id_type="int64")
    assert kept == [{"user_id": 2**63 - 1, "item_id": -(10**18) - 1, "timestamp": 5_000_000}]
    assert counts["wrong_type_user_id"] == 2
    assert [row["user_id"] for row in quarantine] == ["9223372036854775808", "x"]


def test_csv_times_can_be_iso_strings(tmp_path):
    text = CSV_HEADER + b"u,i,2024-01-01\nv,i,2024-01-01T01:00:00+01:00\nw,i,1704067200\n"
    kept, _, quarantine = read_csv(tmp_path, text)
    assert [event["timestamp"] for event in kept] == [NEW_YEAR, NEW_YEAR]
    assert [row["reason"] for row in quarantine] == ["unparsable_time"]


def test_csv_columns_may_stand_in_any_order_among_others(tmp_path):
    text = b"price,timestamp,user_id,note,item_id\n1.5,5,u,x,i\n"
    kept, _, _ = read_csv(tmp_path, text, time_unit="s")
    assert kept == [{"user_id": "u", "item_id": "i", "timestamp": 5_000_000}]


# --- JSON lines ---


def test_broken_json_lines_are_quarantined_as_text(tmp_path):
    text = b'{"user_id": "u", "item_id": "i", "timestamp": 5}\n{broken\n[1, 2]\n"text"\n\n'
    kept, counts, quarantine = read_jsonl(tmp_path, text, time_unit="s")
    assert users_of(kept) == ["u"]
    assert [row["text"] for row in quarantine] == ["{broken", "[1, 2]", '"text"']
    assert counts["rows"] == 4


@pytest.mark.parametrize("bad", [b"1.0", b"[1]", b'{"id": 1}', b"true", b"1e3", b"NaN"])
def test_a_json_id_that_is_neither_integer_nor_string_is_quarantined_as_text(tmp_path, bad):
    good = b'{"user_id": 7, "item_id": "i", "timestamp": 5}\n'
    line = b'{"user_id": ' + bad + b', "item_id": "i", "timestamp": 5}'
    kept, counts, quarantine = read_jsonl(tmp_path, good + line + b"\n" + good, time_unit="s")
    assert users_of(kept) == ["7", "7"]
    assert counts["malformed_row"] == 1
    assert quarantine[0]["text"] == line.decode()


def test_json_integers_and_strings_are_the_same_ids(tmp_path):
    line = b'{"user_id": %s, "item_id": 1, "timestamp": 5}\n'
    only_numbers = read_jsonl(tmp_path, line % b"7", time_unit="s")
    mixed = read_jsonl(tmp_path, line % b"7" + line % b'"7"' + line % b'"x"', time_unit="s")
    assert users_of(only_numbers[0]) == ["7"]
    assert users_of(mixed[0]) == ["7", "7", "x"]


def test_json_ids_that_look_like_dates_stay_as_they_are_written(tmp_path):
    text = b'{"user_id": "2024-01-01", "item_id": "2024-01-01T00:00:00Z", "timestamp": 5}\n'
    kept, _, _ = read_jsonl(tmp_path, text, time_unit="s")
    assert kept[0]["user_id"] == "2024-01-01"
    assert kept[0]["item_id"] == "2024-01-01T00:00:00Z"


def test_json_integer_ids_of_any_size_are_kept_as_text(tmp_path):
    text = b'{"user_id": 18446744073709551616, "item_id": 9223372036854775807, "timestamp": 5}\n'
    kept, _, _ = read_jsonl(tmp_path, text, time_unit="s")
    assert kept[0]["user_id"] == "18446744073709551616"
    assert kept[0]["item_id"] == "9223372036854775807"


def test_json_ids_can_be_integers(tmp_path):
    lines = [
        b'{"user_id": 7, "item_id": "8", "timestamp": 5}',
        b'{"user_id": "x", "item_id": 1, "timestamp": 5}',
    ]
    kept, counts, _ = read_jsonl(tmp_path, b"\n".join(lines), time_unit="s", id_type="int64")
    assert [(event["user_id"], event["item_id"]) for event in kept] == [(7, 8)]
    assert counts["wrong_type_user_id"] == 1


def test_json_times_can_be_iso_strings(tmp_path):
    line = b'{"user_id": "u", "item_id": "i", "timestamp": "%s"}\n'
    text = line % b"2024-01-01" + line % b"2024-01-01T00:00:00+00:00" + line % b"soon"
    kept, _, quarantine = read_jsonl(tmp_path, text)
    assert [event["timestamp"] for event in kept] == [NEW_YEAR, NEW_YEAR]
    assert [row["reason"] for row in quarantine] == ["unparsable_time"]


@pytest.mark.parametrize(
    "bad", [b'"\xff"', rb'"\ud800"'], ids=["invalid utf-8", "half a surrogate pair"]
)
def test_a_json_line_that_is_no_text_is_quarantined(tmp_path, bad):
    good = b'{"user_id": "u", "item_id": "i", "timestamp": 5}\n'
    line = b'{"user_id": ' + bad + b', "item_id": "i", "timestamp": 5}\n'
    kept, counts, quarantine = read_jsonl(tmp_path, good + line, time_unit="s")
    assert users_of(kept) == ["u"]
    assert counts["rows"] == 2
    assert len(quarantine) == 1


def test_a_last_line_without_a_newline_is_read(tmp_path):
    line = b'{"user_id": "%s", "item_id": "i", "timestamp": 5}'
    text = line % b"u" + b"\n" + line % b"v"
    assert users_of(read_jsonl(tmp_path, text, time_unit="s")[0]) == ["u", "v"]
    text = CSV_HEADER + b"u,i,5\nv,i,5"
    assert users_of(read_csv(tmp_path, text, time_unit="s")[0]) == ["u", "v"]


def test_lines_of_windows_are_read(tmp_path):
    line = b'{"user_id": "%s", "item_id": "i", "timestamp": 5}\r\n'
    text = line % b"u" + b"{broken\r\n" + line % b"v"
    assert users_of(read_jsonl(tmp_path, text, time_unit="s")[0]) == ["u", "v"]
    text = b"user_id,item_id,timestamp\r\nu,i,5\r\nv,i,5\r\n"
    assert users_of(read_csv(tmp_path, text, time_unit="s")[0]) == ["u", "v"]


# --- a log that changes while it is read ---


def read_again(path: str, change, *, after_chunks: int = 0) -> None:
    """What a task reads of a log that `change` gets at after the listing."""
    events = EventsConfig(path=path)
    log = inspect_inputs(list_inputs(events, run_date=date(2030, 1, 1)), events)
    ((_, fragment),) = fragments_of(pa.Table.from_pylist(fragment_rows(log)))
    types = (log.user_type, log.item_type)
    chunks = read_events(fragment, events=events, log_types=types, before=2**62)
    for _ in range(after_chunks):
        next(chunks)
    change()
    list(chunks)


def write_log(path: Path, item: str) -> None:
    table = {"user_id": ["u"], "item_id": [item], "timestamp": pa.array([1], pa.timestamp("us"))}
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize("after_chunks", [0, 1])
def test_a_file_that_was_written_again_since_the_listing_is_not_read_as_if_it_was_not(
    tmp_path, after_chunks
):
    path = tmp_path / "log.parquet"
    write_log(path, "a")
    with pytest.raises(InputDataError, match=r"log\.parquet has changed since the run began; run"):
        read_again(str(path), lambda: write_log(path, "b"), after_chunks=after_chunks)
    read_again(str(path), lambda: None)


def test_a_file_that_is_cut_or_gone_since_the_listing_is_said_to_be(tmp_path):
    path = tmp_path / "log.parquet"
    write_log(path, "a")
    with pytest.raises(InputDataError, match=r"log\.parquet has changed since the run began"):
        read_again(str(path), lambda: path.write_bytes(b"PAR1"))
    write_log(path, "a")
    with pytest.raises(InputDataError, match=r"log\.parquet is gone since the run began"):
        read_again(str(path), path.unlink)


def test_an_object_that_was_written_again_since_the_listing_is_named(tmp_path, s3):
    store = Storage.of(f"{s3}/{tmp_path.name}")
    for item in ("a", "b"):
        write_log(tmp_path / item, item)
    store.write_bytes("log.parquet", (tmp_path / "a").read_bytes())
    read_again(store.url("log.parquet"), lambda: None)
    with pytest.raises(InputDataError, match=r"log\.parquet has changed since the run began"):
        read_again(
            store.url("log.parquet"),
            lambda: store.write_bytes("log.parquet", (tmp_path / "b").read_bytes()),
        )
