"""Dirty data: every row of a hostile log is kept, quarantined or dropped under a name, or the log
is refused in words; and the same as properties of what reads, checks and folds rows."""

import os
from collections import Counter
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import DiffsasrecError, InputDataError
from diffsasrec.inputs.events import read_events
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.row_checks import check_rows, quarantine_rows
from diffsasrec.schema import events_schema
from diffsasrec.sequences.fold import fold
from diffsasrec.times import microseconds
from jobs.faults.corpus import DROPS, LOGS, config_of, in_microseconds, measure
from jobs.faults.logs.build import RUN_DATE
from jobs.prepare import check_counts

# found when the split is sought and items are counted, behind what is read here
LATER = {"every item rare", "rare items", "one instant", "a fixed split after the log"}


def read_through(config):
    """The folded events, the reasons of the quarantined rows and the counts, without Ray."""
    events = config.events
    found = inspect_inputs(list_inputs(events, run_date=date.fromisoformat(RUN_DATE)), events)
    types, before = (found.user_type, found.item_type), microseconds(RUN_DATE)
    kept: list[pa.Table] = []
    reasons: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for fragment in found.fragments:
        for chunk, checked in read_events(fragment, events=events, log_types=types, before=before):
            kept.append(checked.events)
            bad = quarantine_rows(checked, chunk, events, fragment.path)
            reasons.update([] if bad is None else bad["reason"].to_pylist())
            num_malformed = len(chunk.malformed)
            counts += checked.counts + Counter(rows=num_malformed, malformed_row=num_malformed)
    check_counts(counts, source=events.source, max_bad_fraction=events.max_bad_fraction)
    folded, dropped = fold(pa.concat_tables(kept), max_user_events=config.split.max_user_events)
    return unfolded(folded), reasons, counts + dropped


def unfolded(folded):
    columns = (folded[name].to_pylist() for name in ("user_id", "item_ids", "times"))
    return [
        (user, *event)
        for user, items, times in zip(*columns, strict=True)
        for event in zip(items, times, strict=True)
    ]


@pytest.mark.parametrize("name", sorted(LOGS.keys() - LATER))
def test_every_row_of_a_hostile_log_is_read_or_named(tmp_path, name):
    log = LOGS[name]
    log.write(tmp_path / "log")
    if log.code:
        with pytest.raises(DiffsasrecError) as caught:
            read_through(config_of(log, tmp_path))
        assert caught.value.exit_code == log.code
        assert [part for part in log.says if part not in str(caught.value)] == []
        return
    events, reasons, counts = read_through(config_of(log, tmp_path))
    assert reasons == log.bad
    assert {name: counts[name] for name in DROPS if counts[name]} == log.dropped
    assert counts["rows"] == log.rows == len(events) + reasons.total() + sum(log.dropped.values())
    assert sorted(events) == sorted(in_microseconds(log.kept()))


@pytest.mark.parametrize(
    "name",
    [
        "rare items",
        "one instant",
        "a fixed split after the log",
        "parquet with garbage pages",
    ],
)
def test_a_hostile_log_ends_right_in_the_stage_that_prepares_it(cluster, tmp_path, name):
    outcome = measure({"log": name}, tmp_path)
    assert outcome["right"], outcome


# --- the same as properties ---

BYTES = st.one_of(
    st.none(),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"", b"\x00", b"a\x00", b"../..", "é".encode(), "e\u0301".encode(), b"\xff"]),
)
TEXTS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]


def is_text(data):
    try:
        return data.decode().encode() == data
    except UnicodeDecodeError:
        return False


def checked_rows(users, items, times, *, ids, unit="us", before=10**15):
    raw = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    return check_rows(raw, time_unit=unit, user_type=ids, item_type=ids, before=before)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(BYTES, BYTES), max_size=12), st.sampled_from(TEXTS))
def test_ids_of_any_bytes_are_kept_as_they_are_or_stored_readably_with_a_reason(rows, kind):
    columns = [pa.array([row[n] for row in rows], pa.binary()) for n in range(2)]
    texts = [column.view(pa.string()).cast(kind) for column in columns]
    times = pa.array([1] * len(rows), pa.int64())
    checked = checked_rows(texts[0], texts[1], times, ids=pa.string())
    good = [row for row in rows if all(value and is_text(value) for value in row)]
    kept = [checked.events[name].to_pylist() for name in ("user_id", "item_id")]
    assert list(zip(*kept, strict=True)) == [(u.decode(), i.decode()) for u, i in good]
    assert checked.bad.num_rows == len(rows) - len(good)
    assert checked.bad.schema.field("user_id").type == kind
    for row in checked.bad.to_pylist():  # a value that is no text can't even be shown
        assert row["reason"].split("_")[0] in ("null", "empty", "invalid")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-(2**70), 2**70), max_size=12), st.booleans())
def test_an_integer_in_words_is_that_integer_or_of_the_wrong_type(numbers, padded):
    text = pa.array([f"{n:+d}" if padded else str(n) for n in numbers], pa.string())
    fits = [-(2**63) <= n < 2**63 and not (padded and abs(n) >= 10**18) for n in numbers]
    checked = checked_rows(text, text, pa.array([1] * len(numbers), pa.int64()), ids=pa.int64())
    fitting = [n for n, fit in zip(numbers, fits, strict=True) if fit]
    assert set(checked.events["user_id"].to_pylist()) >= set(fitting)
    assert set(checked.events["user_id"].to_pylist()) <= set(numbers)
    assert checked.counts["wrong_type_user_id"] == len(numbers) - checked.events.num_rows


UNITS = {"s": 10**6, "ms": 10**3, "us": 1}  # microseconds


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=10),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.booleans(),
    st.integers(0, 2**62),
)
def test_a_time_of_64_bits_is_its_moment_or_has_a_reason(times, unit, stamped, before):
    ids = pa.array(["x"] * len(times), pa.string())
    kind = pa.timestamp(unit, tz="UTC") if stamped else pa.int64()
    checked = checked_rows(
        ids,
        ids,
        pa.array(times, pa.int64()).cast(kind),
        ids=pa.string(),
        unit=None if stamped else unit,
        before=before,
    )
    moments = [
        t // 1000 if unit == "ns" else t * UNITS[unit] for t in times if t is not None and t >= 0
    ]
    assert checked.events["timestamp"].to_pylist() == [t for t in moments if t < before]
    assert checked.counts["null_time"] == times.count(None)
    num_beyond = sum(t >= 2**63 for t in moments)
    assert checked.counts["after_run_date"] + num_beyond == sum(t >= before for t in moments)
    assert checked.counts["rows"] - checked.counts.total() + checked.counts["rows"] == 0


NAMES = st.one_of(st.text(max_size=4), st.sampled_from(["a", "a\x00", "é", "e\u0301", "..", "A"]))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(NAMES, NAMES, st.integers(0, 3)), max_size=30), st.integers(1, 5))
def test_folding_keeps_ids_of_any_text_apart_and_counts_every_row(rows, max_user_events):
    columns = zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=False)
    table = (
        pa.table(dict(columns), schema=events_schema(pa.string(), pa.string()))
        if rows
        else (events_schema(pa.string(), pa.string()).empty_table())
    )
    folded, dropped = fold(table, max_user_events=max_user_events)
    distinct = set(rows)
    events = unfolded(folded)
    assert dropped["duplicate"] == len(rows) - len(distinct)
    assert dropped["over_max_user_events"] == len(distinct) - len(events)
    sizes = Counter(user for user, _, _ in distinct)
    assert Counter(user for user, _, _ in events) == {
        user: min(size, max_user_events) for user, size in sizes.items()
    }
    assert set(events) <= distinct


def test_a_file_whose_name_is_no_utf_8_is_named(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / os.fsdecode(b"caf\xe9.parquet")).write_bytes(b"x")
    events = EventsConfig(path=str(tmp_path / "log"))
    with pytest.raises(InputDataError, match=r"udce9\.parquet' is no UTF-8; rename the file"):
        list_inputs(events, run_date=date(2024, 1, 1))
