"""Parquet: the types and the raw rows of some columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.files.urls import open_filesystem

ROWS_PER_CHUNK = 256 * 1024


def open_parquet(file: Any) -> pq.ParquetFile:
    # INT96 (Spark, Impala) has nanoseconds, in which far years wrap into ours: microseconds do not.
    # In a page with a checksum, a flipped bit is an error and not another id.
    return pq.ParquetFile(file, coerce_int96_timestamp_unit="us", page_checksum_verification=True)


def footer_of(path: str) -> tuple[pa.Schema, list[int]]:
    """The columns of a file, and its row groups that have rows."""
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        parquet = open_parquet(file)
        groups = range(parquet.num_row_groups)
        return parquet.schema_arrow, [n for n in groups if parquet.metadata.row_group(n).num_rows]


def column_names(schema: pa.Schema) -> list[str]:
    """The columns, and those within structs with dots: user.id."""

    def paths(fields: Any, above: str) -> Iterator[str]:
        for field in fields:
            yield f"{above}{field.name}"
            if pa.types.is_struct(field.type):
                yield from paths(field.type.fields, f"{above}{field.name}.")

    return list(paths(schema, ""))


def type_at(schema: pa.Schema, path: str) -> pa.DataType:
    """The type of a column that `column_names` has."""
    if path in schema.names:
        return schema.field(path).type
    found = schema
    for name in path.split("."):
        field = found.field(name)
        found = field.type
    return found


def read_row_group(
    path: str,
    group: int,
    columns: Sequence[str],
    skip: Callable[[pq.ParquetFile], str | None] = lambda _: None,
) -> Iterator[pa.Table | tuple[str, int]]:
    """The columns of a row group in chunks; columns within structs are flat.

    Args:
        skip: says by the metadata why no row is read; then the reason and the number of rows come
            in place of the chunks.
    """
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        parquet = open_parquet(file)
        reason = skip(parquet)
        if reason is not None:
            yield reason, parquet.metadata.row_group(group).num_rows
            return
        batches = parquet.iter_batches(
            batch_size=ROWS_PER_CHUNK, row_groups=[group], columns=list(dict.fromkeys(columns))
        )
        for batch in batches:
            yield select(pa.Table.from_batches([batch]), columns)


def least_and_largest(parquet: pq.ParquetFile, group: int, path: str) -> tuple[Any, Any] | None:
    """The least and largest value of a column in a row group; None where they are not known."""
    row_group = parquet.metadata.row_group(group)
    for number in range(row_group.num_columns):
        column = row_group.column(number)
        if column.path_in_schema == path:
            try:
                known = column.is_stats_set and column.statistics.has_min_max
                return (column.statistics.min, column.statistics.max) if known else None
            except (ValueError, OverflowError, pa.ArrowException):  # Python has no such year
                return None
    return None


def select(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Some columns of a table by their paths."""
    return pa.table([_column_at(table, path) for path in columns], names=list(columns))


def _column_at(table: pa.Table, path: str) -> pa.ChunkedArray:
    if path in table.column_names:
        return table[path]
    first, *rest = path.split(".")
    column = table[first]
    for name in rest:
        column = pc.struct_field(column, name)
    return column
