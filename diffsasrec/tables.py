"""Tables that lie beside the log, Parquet or CSV: rules, and what items are called."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from diffsasrec.errors import ConfigError
from diffsasrec.schema import canonical, canonical_type
from diffsasrec.storage import open_filesystem, resolve_package


def read_item_ids(path: str, key: str) -> pa.Array:
    """The column item_id of a rule table, canonical; `key` is the config key that names it.

    Raises:
        ConfigError: names the key, the file and what is wrong with it.
    """
    return read_columns(path, key, {"item_id": "id"})["item_id"].combine_chunks().drop_null()


def read_columns(path: str, key: str, columns: Mapping[str, str]) -> pa.Table:
    """Some columns of a table: ids canonical ("id"), or as strings ("text").

    Raises:
        ConfigError: names the key, the file and what is wrong with it.
    """
    filesystem, inside = open_filesystem(resolve_package(path, key))
    try:
        with filesystem.open(inside, "rb") as file:
            table = _read_csv(file, columns) if path.endswith(".csv") else pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{key}={path} can't be read: {error}") from None
    found = {}
    for name, kind in columns.items():
        if table.column_names.count(name) != 1:
            raise ConfigError(
                f"{key}={path} has no column {name}, or two; it has {table.column_names}"
            )
        found[name] = _ids(table[name], name, f"{key}={path}") if kind == "id" else table[name]
        if kind == "text":
            found[name] = _text(table[name], name, f"{key}={path}")
    return pa.table(found)


def _read_csv(file: Any, columns: Mapping[str, str]) -> pa.Table:
    # as text: 007 is another id than 7, and NA is an id
    types = {name: pa.string() for name in columns}
    options = pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    return pa.csv.read_csv(file, convert_options=options)


def _ids(ids: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    if pa.types.is_null(ids.type):  # what an empty table of objects is written as
        return ids.cast(pa.string())
    if canonical_type(ids.type) is None:
        raise ConfigError(f"{where}: {name} is {ids.type}; ids are integers or strings")
    return canonical(ids)


def _text(values: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    try:
        return values.cast(pa.string())
    except pa.ArrowException:
        raise ConfigError(
            f"{where}: {name} is {values.type}, no text; name another column"
        ) from None
