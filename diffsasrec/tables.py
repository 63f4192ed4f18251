"""Tables that lie beside the log, Parquet or CSV: rules, and what items are called."""

from collections.abc import Mapping

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
    return _chosen(_read(path, key, columns, whole=True), columns, f"{key}={path}")


def check_columns(path: str, key: str, columns: Mapping[str, str]) -> None:
    """Raises as `read_columns` does, without reading more than it takes to see the columns."""
    _chosen(_read(path, key, columns, whole=False), columns, f"{key}={path}")


def _read(path: str, key: str, columns: Mapping[str, str], *, whole: bool) -> pa.Table:
    """The table; not `whole`: without its rows."""
    filesystem, inside = open_filesystem(resolve_package(path, key))
    try:
        with filesystem.open(inside, "rb") as file:
            if path.endswith(".csv"):
                options = _as_text(columns)
                if whole:
                    return pa.csv.read_csv(file, convert_options=options)
                return pa.csv.open_csv(file, convert_options=options).schema.empty_table()
            return pq.read_table(file) if whole else pq.read_schema(file).empty_table()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{key}={path} can't be read: {error}") from None


def _as_text(columns: Mapping[str, str]) -> pa.csv.ConvertOptions:
    # 007 is another id than 7, and NA is an id
    types = {name: pa.string() for name in columns}
    return pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)


def _chosen(table: pa.Table, columns: Mapping[str, str], where: str) -> pa.Table:
    found = {}
    for name, kind in columns.items():
        if table.column_names.count(name) != 1:
            raise ConfigError(f"{where} has no column {name}, or two; it has {table.column_names}")
        found[name] = (_ids if kind == "id" else _text)(table[name], name, where)
    return pa.table(found)


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
