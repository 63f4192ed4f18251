"""The heads of the files of a log as a table, so that a later night need not open the files."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from diffsasrec.formats.listing import InputFile
from diffsasrec.read_log.log import Head

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("row_groups", pa.list_(pa.int32())),  # null: the whole file
        ("types", pa.binary()),  # a schema of Arrow's IPC; null for a file without rows
        ("names", pa.list_(pa.string())),
        ("texts", pa.list_(pa.string())),
    ]
)


def heads_table(files: Iterable[InputFile], heads: Iterable[Head]) -> pa.Table:
    """One row per file, SCHEMA, in their order."""
    rows = [
        {
            "path": file.path,
            "size": file.size,
            "version": file.version,
            "row_groups": list(head.row_groups),
            "types": None if head.types is None else _packed(head.types),
            "names": list(head.names),
            "texts": None if head.texts is None else list(head.texts),
        }
        for file, head in zip(files, heads, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def files_of(table: pa.Table) -> list[InputFile]:
    """The files of a table of heads."""
    columns = (table[name].to_pylist() for name in ("path", "size", "version"))
    return [InputFile(*each) for each in zip(*columns, strict=True)]


def heads_of(table: pa.Table) -> dict[str, Head]:
    """The heads of a table, by the path of the file."""
    unpacked: dict[bytes | None, tuple[pa.DataType, ...] | None] = {None: None}
    found = {}
    for row in table.to_pylist():
        packed = row["types"]
        if packed not in unpacked:
            unpacked[packed] = tuple(pa.ipc.read_schema(pa.py_buffer(packed)).types)
        found[row["path"]] = _head(row, unpacked[packed])
    return found


def _head(row: Mapping[str, Any], types: Any) -> Head:
    texts = row["texts"]
    return Head(
        tuple(row["row_groups"]),
        types,
        tuple(row["names"]),
        None if texts is None else (texts[0], texts[1]),
    )


def _packed(types: Iterable[pa.DataType]) -> bytes:
    schema = pa.schema([(str(place), each) for place, each in enumerate(types)])
    return bytes(schema.serialize())
