"""Files that are written alike, and how: by a look at the beginning of some."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem, resolve_path
from diffsasrec.formats.compression import is_compressed, open_text
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import BROKEN
from diffsasrec.tables.data_files import DataFile

from .dialect import Dialect, encoding_of, is_aligned, kind_of, sniff, text_of
from .plain import leaves, unusable_of
from .rows import in_detail, json_rows, whole_lines

HEAD = 256 * 1024  # bytes of the first look at a file
MOST_HEADS = 64  # files of a kind of name that are looked at
NOT_LINES = "JSON that is not one object per line"
ALIGNED = "columns aligned by runs of blanks; write one separator between two fields"


@dataclass(frozen=True)
class Kind:
    """Files that are written alike."""

    what: str  # parquet, csv or jsonl; else in words why they are no log that can be read
    columns: tuple[str, ...] = ()
    dialect: Dialect | None = None  # of a CSV
    files: list[InputFile] = field(default_factory=list)
    encoding: str = "utf-8"  # of text
    unusable: Mapping[str, str] = field(default_factory=dict)  # why columns hold no ids or times
    of_table: Mapping[str, DataFile] = field(default_factory=dict)  # the files of a table by path


def kinds_below(files: list[InputFile]) -> list[Kind]:
    """The files, put together by what is in them; at most MOST_HEADS kinds of names are opened."""
    alike: dict[str, list[InputFile]] = {}
    for file in files:
        alike.setdefault(_pattern(file.path), []).append(file)
    found: dict[tuple[str, tuple[str, ...], Dialect | None], Kind] = {}
    for number, some in enumerate(alike.values()):
        # the first hour may have no row
        largest = max(some, key=lambda file: file.size)
        kind = _look(largest) if number < MOST_HEADS else Kind("not looked at")
        key = kind.what, kind.columns, _form(kind.dialect)
        kind = _with_marks(found.get(key, kind), kind)
        kind.files.extend(some)
        found[key] = kind
    return list(found.values())


def _with_marks(kind: Kind, other: Kind) -> Kind:
    """A kind with the marks of numbers that only the other one has."""
    if kind.dialect is None or other.dialect is None:
        return kind
    marks = {
        name: getattr(kind.dialect, name) or getattr(other.dialect, name)
        for name in ("thousands", "decimal")
    }
    return replace(kind, dialect=replace(kind.dialect, **marks))


def _form(dialect: Dialect | None) -> Dialect | None:
    """A dialect without what differs from file to file."""
    return dialect and replace(dialect, encoding="", lines=0, even=0, thousands=None, decimal=None)


def are_alike(kind: Kind, other: Kind) -> bool:
    """Whether one configuration reads files of two kinds, if they have its columns."""
    if kind.what != other.what or kind.dialect is None or other.dialect is None:
        return kind.what == other.what
    forms = [
        _form(d if not d.has_header else replace(d, names=()))
        for d in (kind.dialect, other.dialect)
    ]
    return forms[0] == forms[1]


def _pattern(path: str) -> str:
    """The name of a file without what counts files: part-00017-ab12cd34.csv -> part-#-#.csv."""
    name = os.path.basename(path).lower()
    name = re.sub(r"[0-9a-f]{8,}(?:-[0-9a-f]+)*", "#", name)
    return re.sub(r"[0-9]+(?:[-_.]?[0-9]+)*", "#", name)


def _look(file: InputFile) -> Kind:
    """What a file is, and its columns; without files."""
    try:
        head = head_of(file.path)
        what = kind_of(head)
        if what == "parquet":
            if is_compressed(read_ranges(file.path, [(0, 8)])[0]):
                return Kind("Parquet that is compressed as a whole; unpack it")
            return of_schema(parquet_schema(file.path))
        if what not in ("csv", "jsonl"):
            return Kind(NOT_LINES if what == "json" else what)
        return _look_at_text(what, head)
    except InputDataError as error:
        return Kind(str(error))
    except BROKEN as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return Kind(f"a file that can't be read: {text}")


def of_schema(schema: pa.Schema) -> Kind:
    """The kind of Parquet files with these columns."""
    names = tuple(dict.fromkeys(name for name, _ in leaves(schema)))
    return Kind("parquet", names, unusable=unusable_of(schema))


def _look_at_text(what: str, head: bytes) -> Kind:
    encoding = encoding_of(head)
    text = text_of(head, encoding).encode()
    text = whole_lines(text, from_start=True, to_end=len(head) < HEAD)
    if what == "jsonl":
        schema = json_rows(text)[0].schema
        return Kind(what, tuple(schema.names), encoding=encoding, unusable=unusable_of(schema))
    dialect = sniff(head)
    if (dialect.separator == " " or len(dialect.names) == 1) and is_aligned(head):
        return Kind(ALIGNED)
    dialect = in_detail(text, dialect)
    names = dialect.names
    twice = {name: "is there twice: rename one" for name in names if names.count(name) > 1}
    return Kind(what, names, dialect, encoding=encoding, unusable=twice)


def head_of(path: str, most: int = HEAD) -> bytes:
    """The first bytes of a file, decompressed; of a Parquet file as they are."""
    head = read_ranges(path, [(0, most)])[0]
    if not is_compressed(head):
        return head
    with open_text(path) as file:
        return bytes(file.read(most))


def read_ranges(path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    filesystem, inside = open_filesystem(resolve_path(path, "PATH"))
    parts = []
    with filesystem.open(inside, "rb") as file:
        for start, length in ranges:
            file.seek(start)
            parts.append(bytes(file.read(length)))
    return parts


def parquet_schema(path: str) -> pa.Schema:
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        return pq.ParquetFile(file).schema_arrow
