"""The data files of a Delta table at a version, and the rows deleted in them.

deltalake is an optional extra: only the functions that read a table's log import it.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.urls import is_s3, resolve_path
from diffsasrec.tables.data_files import DataFile, Deleted, Names
from diffsasrec.tables.explained import explained, needs
from diffsasrec.tables.iceberg import digest, readable_path

# of a table, and what each asks of a reader is done here or changes no column of a log
KNOWN_FEATURES = {
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "variantType",
    "variantType-preview",
}
PHYSICAL_NAME = "delta.columnMapping.physicalName"


def newest_version(events: EventsConfig) -> int:
    """The number of the newest version.

    Raises:
        ConfigError: deltalake or the table is missing.
    """
    return int(_open(events, None).version())


def files_at(events: EventsConfig, version: int, used: Mapping[str, bool] | None) -> list[DataFile]:
    """The data files of a version, sorted by path.

    Args:
        used: as of `used_columns`; None: all columns, and a row may be without a value of any.

    Raises:
        ConfigError: the table or the version is missing.
        InputDataError: the table asks of its readers what this version can't do.
    """
    table = _open(events, version)
    _refuse_unknown(table, events)
    root = readable_path(str(table.table_uri)).rstrip("/")
    with explained(events):
        names = Names(by_name=_mapped(table))
        actions = pa.table(table.get_add_actions(flatten=True))
        deleted = _deletion_vectors(table)
        constants = _constants(table, actions, used)
    files = []
    shown = actions.select(["path", "size_bytes", "modification_time"]).to_pylist()
    for place, action in enumerate(shown):
        path = unquote(action["path"])
        path = readable_path(path) if "://" in path else f"{root}/{path}"
        gone = deleted.get(path)
        stamp = "" if gone is None else digest(map(str, gone))
        files.append(
            DataFile(
                path,
                int(action["size_bytes"]),
                f"{action['modification_time']}{stamp and f'-{stamp}'}",
                path,
                names,
                None if gone is None else Deleted(positions=gone),
                {name: column[place] for name, column in constants.items()},
            )
        )
    return sorted(files, key=lambda file: file.path)


def _open(events: EventsConfig, version: int | None) -> Any:
    assert events.table is not None
    url = _url(resolve_path(events.table, "events.table"))
    needs("deltalake", "delta", events)
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    with explained(events):
        try:
            return DeltaTable(url, version=version, storage_options=_options(events))
        except TableNotFoundError:
            raise ConfigError(
                f"{events.source} is no Delta table: it has no _delta_log; check the path"
            ) from None


def _url(path: str) -> str:
    return path if is_s3(path) else os.path.abspath(os.path.expanduser(path))


def _options(events: EventsConfig) -> dict[str, str]:
    """What its own S3 client needs beside the AWS variables: a store may speak plain HTTP."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", ""))
    options = dict(events.table_properties)
    if is_s3(str(events.table)) and endpoint:
        options.setdefault("AWS_ENDPOINT_URL", endpoint)
        if endpoint.startswith("http://"):
            options.setdefault("AWS_ALLOW_HTTP", "true")
    return options


def _refuse_unknown(table: Any, events: EventsConfig) -> None:
    unknown = set(table.protocol().reader_features or ()) - KNOWN_FEATURES
    if unknown:
        raise InputDataError(
            f"{events.source} asks of its readers what this version can't do: "
            f"{', '.join(sorted(unknown))}; drop the feature, or name a copy of the table"
        )


def _constants(
    table: Any, actions: pa.Table, used: Mapping[str, bool] | None
) -> dict[str, pa.ChunkedArray]:
    """The values of columns that data files may not hold, one per file: those of partitions, and
    null for columns that are younger than a file.
    """
    types, partitioned = pa.schema(table.schema().to_arrow()), table.metadata().partition_columns
    stored = {name: physical for physical, name in _mapped(table).items()}
    found = {}
    for name, may_miss in (dict.fromkeys(types.names, True) if used is None else used).items():
        if name in partitioned:
            places = [f"partition.{each}" for each in (name, stored.get(name))]
            (place,) = [each for each in places if each in actions.column_names]
            found[name] = actions[place].cast(types.field(name).type)
        elif may_miss and name in types.names:
            kind = types.field(name).type
            found[name] = pa.chunked_array([pa.nulls(len(actions), kind)])
    return found


def _mapped(table: Any) -> dict[str, str]:
    """The table's names by those of its files, where columns were renamed."""
    physical = {one.name: (one.metadata or {}).get(PHYSICAL_NAME) for one in table.schema().fields}
    return {str(stored): name for name, stored in physical.items() if stored is not None}


def _deletion_vectors(table: Any) -> dict[str, npt.NDArray[np.int64]]:
    """The positions of deleted rows by the path of their file."""
    found: dict[str, npt.NDArray[np.int64]] = {}
    for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()):
        for path, kept in zip(batch.column(0), batch.column(1), strict=True):
            mask = kept.values.to_numpy(zero_copy_only=False)
            found[readable_path(unquote(path.as_py()))] = np.flatnonzero(~mask).astype(np.int64)
    return found
