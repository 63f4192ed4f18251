"""A log that changes while it is read."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.events import read_events
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs


def read_again(path: str, change, *, after_chunks: int = 0) -> None:
    """What a task reads of a log that `change` gets at after the listing."""
    events = EventsConfig(path=path)
    log = inspect_inputs(list_inputs(events, run_date=date(2030, 1, 1)), events)
    (fragment,) = log.fragments
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
