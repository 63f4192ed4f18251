"""Which of some files are a log, and a bounded look into them."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem, resolve_path
from diffsasrec.formats.compression import open_text
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import BROKEN

from .sniff.dialect import Dialect, is_aligned, kind_of, sniff
from .sniff.rows import csv_rows, json_rows, whole_lines

HEAD = 256 * 1024  # bytes of the first look at a file
MOST_HEADS = 64  # files of a kind of name that are looked at
MOST_BYTES = 64 * 2**20  # of a sample, as they are without compression
MOST_FILES = 32  # of a sample of large files
MOST_SMALL_FILES = 1024  # of one of files that fit into it as a whole
MOST_ROWS = 1_000_000
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")
ALIGNED = "columns aligned by runs of blanks; write one separator between two fields"
TIMES_SMALLER = 4  # a compressed file that was not read to its end, than its text; about


@dataclass(frozen=True)
class Kind:
    """Files that are written alike."""

    what: str  # parquet, csv or jsonl; else in words why they are no log that can be read
    columns: tuple[str, ...]
    dialect: Dialect | None  # of a CSV
    files: list[InputFile]


@dataclass(frozen=True)
class Sample:
    """Rows of a log, from all over its files."""

    table: pa.Table
    num_uneven: int  # lines that are no rows
    num_files: int  # that were opened
    rows: float  # of the whole log, about; exact where is_whole
    is_whole: bool  # every row is in the table


def kinds_below(files: list[InputFile]) -> list[Kind]:
    """The files, put together by what is in them; at most MOST_HEADS kinds of names are opened."""
    alike: dict[str, list[InputFile]] = {}
    for file in files:
        alike.setdefault(_pattern(file.path), []).append(file)
    found: dict[tuple[str, tuple[str, ...], str | None], Kind] = {}
    for number, some in enumerate(alike.values()):
        what, columns, dialect = (
            _look(max(some, key=lambda file: file.size))  # the first hour may have no row
            if number < MOST_HEADS
            else ("not looked at", (), None)
        )
        key = what, columns, None if dialect is None else dialect.separator
        kind = found.setdefault(key, Kind(what, columns, dialect, []))
        kind.files.extend(some)
    return list(found.values())


def _pattern(path: str) -> str:
    """The name of a file without what counts files: part-00017-ab12cd34.csv -> part-#-#.csv."""
    name = os.path.basename(path).lower()
    name = re.sub(r"[0-9a-f]{8,}(?:-[0-9a-f]+)*", "#", name)
    return re.sub(r"[0-9]+(?:[-_.]?[0-9]+)*", "#", name)


def _look(file: InputFile) -> tuple[str, tuple[str, ...], Dialect | None]:
    """What a file is, and its columns."""
    try:
        head = head_of(file.path)
        what = kind_of(head)
        if what == "parquet":
            return what, tuple(parquet_schema(file.path).names), None
        if what == "jsonl":
            table, _ = json_rows(whole_lines(head, from_start=True, to_end=len(head) < HEAD))
            return what, tuple(table.column_names), None
        if what == "csv":
            dialect = sniff(head)
            if (dialect.separator == " " or len(dialect.names) == 1) and is_aligned(head):
                return ALIGNED, (), None
            return what, dialect.names, dialect
    except InputDataError as error:
        return str(error), (), None
    except BROKEN as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return f"a file that can't be read: {text}", (), None
    if what == "json":
        what = "JSON that is not one object per line"
    return what, (), None


def head_of(path: str, most: int = HEAD) -> bytes:
    """The first bytes of a file, decompressed; of a Parquet file as they are."""
    head = _raw(path, [(0, most)])[0]
    if not head.startswith(COMPRESSED):
        return head
    with open_text(path) as file:
        return bytes(file.read(most))


def _raw(path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
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


def spread(files: list[InputFile], most: int) -> list[InputFile]:
    """At most so many of the files, evenly from first to last."""
    if len(files) <= most:
        return files
    return [files[round(n * (len(files) - 1) / (most - 1))] for n in range(most)]


def how_many(files: list[InputFile], most_bytes: int, *, least: int, most: int) -> int:
    """Of how many files a sample of so many bytes is made: the smaller they are, the more."""
    mean = sum(file.size for file in files) / len(files)
    return int(min(max(most_bytes / max(mean, 1), least), most))


def take(kind: Kind, *, most_bytes: int = MOST_BYTES, most_rows: int = MOST_ROWS) -> Sample:
    """Rows of a log that together are at most so many bytes of text.

    Raises:
        InputDataError: none of the files that were opened has a row.
    """
    number = how_many(kind.files, most_bytes, least=MOST_FILES, most=MOST_SMALL_FILES)
    chosen = spread(kind.files, number)
    share = most_bytes // len(chosen)

    def part(file: InputFile) -> tuple[pa.Table, int, float, bool]:
        if kind.what == "parquet":
            return _parquet_part(file.path, share, most_rows // len(chosen))
        return _text_part(file, kind, share)

    with ThreadPoolExecutor(16) as pool:  # latency, not work
        taken = list(pool.map(part, chosen))
    parts = [part for part, *_ in taken]
    table = pa.concat_tables(parts, promote_options="permissive")
    if not table.num_rows:
        raise InputDataError(
            f"{chosen[0].path} and {len(chosen) - 1} more files hold no row; bring a log that has "
            "events"
        )
    rows = sum(rows for _, _, rows, _ in taken) * len(kind.files) / len(chosen)
    whole = len(chosen) == len(kind.files) and all(w for *_, w in taken)
    table = table.slice(0, 2 * most_rows)
    uneven = sum(uneven for _, uneven, *_ in taken)
    return Sample(table, uneven, len(chosen), rows, whole and table.num_rows == rows)


def _text_part(file: InputFile, kind: Kind, share: int) -> tuple[pa.Table, int, float, bool]:
    """Rows of a text file, lines that are none, about how many rows it has, and if that is all."""
    tables, uneven, num_bytes, reached = [], 0, 0, True
    for number, (data, is_cut) in enumerate(text_blocks(file, share)):
        reached &= not is_cut
        num_bytes += len(data)
        if kind.dialect is None:
            table, bad = json_rows(data)
        else:
            header = kind.dialect.has_header and number == 0
            table, bad = csv_rows(data, kind.dialect, with_header=header)
        tables.append(table)
        uneven += bad
    table = pa.concat_tables(tables, promote_options="permissive")
    if reached:
        return table, uneven, table.num_rows, True
    is_packed = _raw(file.path, [(0, 8)])[0].startswith(COMPRESSED)
    size = file.size * (TIMES_SMALLER if is_packed else 1)
    return table, uneven, table.num_rows * max(size / max(num_bytes, 1), 1.0), False


def text_blocks(file: InputFile, share: int) -> Iterator[tuple[bytes, bool]]:
    """Whole lines of a text file, and whether lines are left out behind them.

    All of a small file; of a larger one its beginning, its middle and its end; of a compressed one
    its beginning, since it can't be read from elsewhere.
    """
    head = head_of(file.path, share + 1)
    if len(head) <= share:
        yield head, False
        return
    if _raw(file.path, [(0, 8)])[0].startswith(COMPRESSED):
        yield whole_lines(head[:share], from_start=True, to_end=False), True
        return
    third = share // 3
    yield whole_lines(head[:third], from_start=True, to_end=False), True
    middle, end = _raw(file.path, [(file.size // 2, third), (max(file.size - third, third), third)])
    yield whole_lines(middle, from_start=False, to_end=False), True
    yield whole_lines(end, from_start=False, to_end=True), True


def _parquet_part(path: str, share: int, most_rows: int) -> tuple[pa.Table, int, float, bool]:
    """Likewise of a Parquet file: of its first and last row groups; without nested columns."""
    filesystem, inside = open_filesystem(path)
    with filesystem.open(inside, "rb") as file:
        parquet = pq.ParquetFile(file)
        names = [f.name for f in parquet.schema_arrow if not pa.types.is_nested(f.type)]
        groups = _some_groups(parquet, share)
        empty = parquet.schema_arrow.empty_table().select(names)
        parts = [empty, *_batches(parquet, groups, names, most_rows)]
    table = pa.concat_tables(parts)
    rows = parquet.metadata.num_rows
    return table, 0, rows, table.num_rows == rows


def _some_groups(parquet: pq.ParquetFile, share: int) -> list[int]:
    """The first, the last, the second, ... as many as are of the share of bytes; at least one."""
    count = parquet.num_row_groups
    order = [n // 2 if n % 2 == 0 else count - 1 - n // 2 for n in range(count)]
    chosen: list[int] = []
    for group in order:
        share -= parquet.metadata.row_group(group).total_byte_size
        if chosen and share < 0:
            break
        chosen.append(group)
    return sorted(chosen)


def _batches(
    parquet: pq.ParquetFile, groups: list[int], names: list[str], most_rows: int
) -> Iterator[pa.Table]:
    for group in groups:
        left = most_rows // len(groups)
        for batch in parquet.iter_batches(65_536, row_groups=[group], columns=names):
            yield pa.Table.from_batches([batch]).select(names).slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                break
