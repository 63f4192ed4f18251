"""The rows of the data files of a table that are not deleted."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.parquet_rows import (
    ROWS_PER_CHUNK,
    least_and_largest,
    open_parquet,
    select,
    type_at,
)
from diffsasrec.formats.parquet_rows import footer_of as footer_of_file
from diffsasrec.tables.data_files import DataFile, without_deleted


def footer_of(file: DataFile) -> tuple[pa.Schema, list[int]]:
    """The columns of a data file under the table's names, and its row groups that have rows."""
    schema, groups = footer_of_file(file.path)
    names = file.names.of(schema)
    fields = [column.with_name(name) for column, name in zip(schema, names, strict=True)]
    lacking = file.lacking(schema)
    return pa.schema([*fields, *((name, value.type) for name, value in lacking.items())]), groups


def statistics_of(
    file: DataFile | None, parquet: pq.ParquetFile, row_group: int, column: str
) -> tuple[Any, Any, pa.DataType] | None:
    """The least and largest value of a column in a row group, and its type; None: not known.

    Args:
        file: of a table, which names its columns and has those of its partition; None: of none.
    """
    schema, stored = parquet.schema_arrow, column
    if file is not None:
        if (constant := file.lacking(schema).get(column)) is not None:
            value = constant.as_py()
            return None if value is None else (value, value, constant.type)
        if column.partition(".")[0] in file.lacking(schema):
            return None
        stored = file.stored_names(schema, [column])[0]
    known = least_and_largest(parquet, row_group, stored)
    return None if known is None else (*known, type_at(schema, stored))


def read_rows(
    file: DataFile,
    row_group: int,
    columns: Sequence[str],
    skip: Callable[[pq.ParquetFile], str | None] = lambda _: None,
) -> Iterator[pa.Table | tuple[str, int]]:
    """The rows of a row group that are not deleted, in chunks, under the table's names.

    Args:
        columns: of the table; those within structs with dots, as in user.id.
        skip: says by the metadata why no row is read; then the reason and the number of rows that
            are not deleted come in place of the chunks.
    """
    deleted = file.deleted_rows()
    filesystem, inside = open_filesystem(file.path)
    with filesystem.open(inside, "rb") as opened:
        parquet = open_parquet(opened)
        schema, metadata = parquet.schema_arrow, parquet.metadata
        first = sum(metadata.row_group(n).num_rows for n in range(row_group))
        if (reason := skip(parquet)) is not None:
            num_rows = metadata.row_group(row_group).num_rows
            start, end = np.searchsorted(deleted, [first, first + num_rows])
            yield reason, num_rows - int(end - start)
            return
        names = dict(zip(schema.names, file.names.of(schema), strict=True))
        lacking = file.lacking(schema)
        held = [c for c in columns if c not in lacking and c.partition(".")[0] not in lacking]
        stored = file.stored_names(schema, held)
        for batch in parquet.iter_batches(
            batch_size=ROWS_PER_CHUNK, row_groups=[row_group], columns=list(dict.fromkeys(stored))
        ):
            table = pa.Table.from_batches([batch])
            rows = table.rename_columns([names[name] for name in table.column_names])
            for name, value in lacking.items():
                rows = rows.append_column(name, pa.repeat(value, batch.num_rows))
            yield without_deleted(select(rows, columns), first, deleted)
            first += batch.num_rows
