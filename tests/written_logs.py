"""Small logs as files: written, listed, inspected and read."""

import os
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.log_rows import read_fragment

RUN_DATE = date(2024, 1, 10)
COLUMNS = {"user_id": ["u", "v"], "item_id": [1, 2], "timestamp": [5, 6]}
CSV = b"user_id,item_id,timestamp\nu,1,5\nv,2,6\n"
JSONL = b'{"user_id": "u", "item_id": 1, "timestamp": 5}\n'


def config(path, **settings):
    return EventsConfig(path=str(path), **{"time_unit": "s", **settings})


def listed(path, **settings):
    """The listed paths, relative to the directory that `path` names or starts in."""
    base = str(path).partition("*")[0]
    base = base if os.path.isdir(base) else os.path.dirname(base)
    files = list_inputs(config(path, **settings), run_date=RUN_DATE)
    return [os.path.relpath(file.path, base) for file in files]


def touch(directory, *names):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path, columns=COLUMNS, **settings):
    pq.write_table(
        columns if isinstance(columns, pa.Table) else pa.table(columns), path, **settings
    )
    return path


def inspected(path, **settings):
    events = config(path, **settings)
    return inspect_inputs(list_inputs(events, run_date=RUN_DATE), events)


def refusal(path, error=InputDataError, **settings):
    with pytest.raises(error) as caught:
        inspected(path, **settings)
    return str(caught.value)


def raw_rows(path, **settings):
    events = config(path, **settings)
    chunks = [
        chunk for f in inspected(path, **settings).fragments for chunk in read_fragment(f, events)
    ]
    return [row for chunk in chunks for row in chunk.rows.to_pylist()]
