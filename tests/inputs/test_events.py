"""Events of whole files, Parquet, CSV and JSON lines, and the quarantine of their bad rows."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checked_rows import CSV_HEADER, NEW_YEAR, read, read_csv, read_jsonl, users_of

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
    assert counts == {"rows": 1, "kept": 1}


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
    assert counts == {"rows": 8, **singles}


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
        b'{"user_id": "u", "item_id": "i", "timestamp": "5,5"}',
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
    text = CSV_HEADER + b'007,"a, b",5\n"NA", 1,5\n'
    kept, _, _ = read_csv(tmp_path, text, time_unit="s")
    ids = [(event["user_id"], event["item_id"]) for event in kept]
    assert ids == [("007", "a, b"), ("NA", " 1")]


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


@pytest.mark.parametrize("bad", [b"1.5", b"[1]", b'{"id": 1}', b"true", b"1e300", b"NaN"])
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
