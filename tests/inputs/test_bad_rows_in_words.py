"""Bad rows in words: where they are, what they hold, what to set; and odd times."""

from collections import Counter

import pyarrow as pa
import pytest
from checked_rows import CSV_HEADER, NEW_YEAR, read_csv
from written_logs import config

from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.inputs.moments import early_events, refuse_days_as_numbers
from diffsasrec.inputs.quarantine import example_of, examples_of, shown_value
from diffsasrec.read_log.log import Fragment
from jobs.prepare import check_counts

NAMES = {"user_column": "customer", "item_column": "sku", "time_column": "at"}


def words(reason, fragment=None, text=None, **values):
    row = {"customer": "u", "sku": "i", "at": "5", **values, "reason": reason, "text": text}
    settings = {"time_unit": None, **NAMES}
    fragment = fragment or Fragment("a.csv", None)
    return str(example_of(row, reason, config("log", **settings), fragment))


def test_a_bad_row_names_its_file_row_group_columns_and_values():
    found = words("null_user_id", Fragment("a.parquet", 3), customer=None, sku=7)
    assert found == (
        "a.parquet, row group 3: customer null, sku 7, at '5'; leave such events out by "
        "events.where: [customer is not null]"
    )


@pytest.mark.parametrize(
    ("reason", "value", "key"),
    [
        ("unparsable_time", "12/1/10 8:26", "set events.time_format, as in [%d/%m/%Y %H:%M]"),
        ("unparsable_time", "1704067200", "set events.time_unit to s: it is a number"),
        ("unparsable_time", "1704067200000", "set events.time_unit to ms: it is a number"),
        ("unparsable_time", "17.5", "set events.time_unit to s, ms, us or ns: it is a number"),
        ("time_out_of_range", 5, "try ms for s"),
        ("wrong_type_item_id", "5", "set events.id_type to string"),
        ("invalid_utf8_user_id", "5", "set events.encoding"),
    ],
)
def test_a_bad_row_says_which_key_mends_it(reason, value, key):
    assert key in words(reason, at=value)


@pytest.mark.parametrize(
    ("line", "key"), [('u,"a \\"b\\"",5', "set events.escape to \\"), ("u,i", "events.separator")]
)
def test_a_broken_line_is_shown_as_it_is(line, key):
    found = words("malformed_row", text=line)
    assert repr(line) in found and key in found


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (7, "7"), ("7", "'7'"), ("x" * 100, f"'{'x' * 80}...'")]
)
def test_a_value_is_shown_as_what_it_is(value, text):
    assert shown_value(value) == text


def test_the_first_row_of_each_reason_is_an_example(tmp_path):
    text = CSV_HEADER + b",i,1\n,j,1\nu,i,soon\nu\n"
    _, _, bad = read_csv(tmp_path, text, time_unit="s")
    found = examples_of(pa.Table.from_pylist(bad), config("log"), Fragment("a.csv", None), known={})
    assert list(found) == ["null_user_id", "unparsable_time", "malformed_row"]
    assert "user_id null, item_id 'i', timestamp '1'" in str(found["null_user_id"])


def test_the_message_of_a_log_that_is_too_dirty_shows_rows():
    counts = Counter(rows=10, kept=5, null_user_id=3, null_time=1, filtered=1)
    examples = {"null_user_id": "a row in words"}
    says = r"4 of 10 rows are bad .* null_user_id: a row in words; look at quarantine/"
    with pytest.raises(InputDataError, match=says):
        check_counts(counts, source="events.path=log", max_bad_fraction=0.1, examples=examples)


# --- times that can be read and are hardly meant ---


def test_days_that_are_read_as_seconds_are_refused():
    days = config("log", time_unit="s")
    with pytest.raises(ConfigError, match=r"such as 20240115 in column timestamp look like days"):
        refuse_days_as_numbers(20_240_115_000_000, days)
    refuse_days_as_numbers(NEW_YEAR, days)
    refuse_days_as_numbers(20_241_515_000_000, days)  # no day


def test_events_before_1990_are_warned_about():
    found = early_events(5, 0, config("log"))
    assert found.startswith("5 events lie before 1990, the first at 1970-01-01T00:00:00")
    assert "events.where, as in [timestamp > 0]" in found
