"""Rows of a log as they are checked, from arrays and from files."""

from datetime import date
from typing import Any

import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.inputs.events import left_out_of, read_events
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.row_checks import check_rows, quarantine_rows

NEW_YEAR = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z in microseconds
RUN_DATE = NEW_YEAR + 86_400_000_000
FAR = 2**62
CSV_HEADER = b"user_id,item_id,timestamp\n"


def check(users, items, times, *, time_unit="us", ids=None, before=RUN_DATE, **more):
    """Checks the rows of three arrays; `ids`: the canonical type of both ids."""
    raw = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    ids = ids or pa.string()
    types = {"user_type": ids, "item_type": ids}
    return check_rows(raw, time_unit=time_unit, before=before, **types, **more)


def check_times(times, *, time_unit=None, before=FAR, **more):
    ids = pa.array(["x"] * len(times), pa.string())
    return check(ids, ids, times, time_unit=time_unit, before=before, **more)


def kept_times(times, *, time_unit=None, **more):
    return check_times(times, time_unit=time_unit, **more).events["timestamp"].to_pylist()


def time_reasons(times, *, time_unit=None):
    return check_times(times, time_unit=time_unit).bad["reason"].to_pylist()


def read(path, *, before=FAR, **settings):
    """events, counts (malformed lines among them) and quarantine rows of a file, as plain values"""
    events = EventsConfig(path=str(path), **settings)
    log = inspect_inputs(list_inputs(events, run_date=date(2030, 1, 1)), events)
    types = (log.user_type, log.item_type)
    kept: list[dict[str, Any]] = []
    quarantine: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for fragment in log.fragments:
        for chunk, checked in read_events(fragment, events=events, log_types=types, before=before):
            kept += checked.events.to_pylist()
            for name, number in [*checked.counts.items(), *left_out_of(chunk).items()]:
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
