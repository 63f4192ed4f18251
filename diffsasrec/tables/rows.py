"""The rows of the data files of a table that are not deleted."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.parquet_rows import ROWS_PER_CHUNK, open_parquet, select
from diffsasrec.formats.parquet_rows import footer_of as footer_of_file
from diffsasrec.tables.data_files import DataFile, without_deleted


def footer_of(file: DataFile) -> tuple[pa.Schema, list[int]]:
    """The columns of a data file under the table's names, and its row groups that have rows."""
    schema, groups = footer_of_file(file.path)
    names = file.names.of(schema)
    fields = [column.with_name(name) for column, name in zip(schema, names, strict=True)]
    return pa.schema(fields), groups


def read_rows(file: DataFile, row_group: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a row group that are not deleted, in chunks, under the table's names.

    Args:
        columns: of the table; those within structs with dots, as in user.id.
    """
    deleted = file.deleted_rows()
    filesystem, inside = open_filesystem(file.path)
    with filesystem.open(inside, "rb") as opened:
        parquet = open_parquet(opened)
        schema = parquet.schema_arrow
        names = dict(zip(schema.names, file.names.of(schema), strict=True))
        stored = file.stored_names(schema, columns)
        first = sum(parquet.metadata.row_group(n).num_rows for n in range(row_group))
        for batch in parquet.iter_batches(
            batch_size=ROWS_PER_CHUNK, row_groups=[row_group], columns=list(dict.fromkeys(stored))
        ):
            table = pa.Table.from_batches([batch])
            rows = table.rename_columns([names[name] for name in table.column_names])
            yield without_deleted(select(rows, columns), first, deleted)
            first += batch.num_rows
