"""A bounded look into the files of a log."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.compression import is_compressed
from diffsasrec.formats.listing import InputFile
from diffsasrec.tables.data_files import DataFile
from diffsasrec.tables.rows import footer_of, read_rows

from .sniff.dialect import encoding_of, is_wide, text_of
from .sniff.kinds import Kind, head_of, read_ranges
from .sniff.plain import leaves, merged, plain_table, unusable_of
from .sniff.rows import csv_rows, json_rows, whole_lines

MOST_BYTES = 64 * 2**20  # of a sample, as they are without compression
MOST_FILES = 32  # of a sample of large files
MOST_SMALL_FILES = 1024  # of one of files that fit into it as a whole
MOST_ROWS = 1_000_000
TIMES_SMALLER = 4  # a compressed file that was not read to its end, than its text; about


@dataclass(frozen=True)
class Sample:
    """Rows of a log, from all over its files."""

    table: pa.Table  # flat columns of plain types
    num_uneven: int  # lines that are no rows
    num_files: int  # that were opened
    rows: float  # of the whole log, about; exact where is_whole
    is_whole: bool  # every row is in the table
    mixed: frozenset[str] = frozenset()  # columns that are texts in some files, and not in others
    absent: Mapping[str, str] = field(default_factory=dict)  # columns and a file without them
    encodings: frozenset[str] = frozenset()  # of texts that are not ASCII


@dataclass(frozen=True)
class Part:
    """Rows of one file."""

    table: pa.Table
    rows: float  # of the whole file, about
    is_whole: bool  # they are all in the table
    num_uneven: int = 0
    encodings: frozenset[str] = frozenset()


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

    def part(file: InputFile) -> Part:
        if kind.what == "parquet":
            as_it_is = DataFile(file.path, file.size, str(file.version), file.path)
            found = kind.of_table.get(file.path, as_it_is)
            return _parquet_part(found, share, most_rows // len(chosen))
        return _text_part(file, kind, share)

    with ThreadPoolExecutor(16) as pool:  # latency, not work
        parts = list(pool.map(part, chosen))
    absent = {} if kind.what == "jsonl" else _absent(chosen, parts)
    table, mixed = merged([part.table for part in parts])
    table = table.drop_columns(list(absent))
    if not table.num_rows:
        raise InputDataError(
            f"{chosen[0].path} and {len(chosen) - 1} more files hold no row; bring a log that has "
            "events"
        )
    rows = sum(part.rows for part in parts) * len(kind.files) / len(chosen)
    whole = len(chosen) == len(kind.files) and all(part.is_whole for part in parts)
    table = table.slice(0, 2 * most_rows)
    return Sample(
        table,
        sum(part.num_uneven for part in parts),
        len(chosen),
        rows,
        whole and table.num_rows == rows,
        mixed,
        absent,
        frozenset().union(*(part.encodings for part in parts)),
    )


def _absent(files: Sequence[InputFile], parts: Sequence[Part]) -> dict[str, str]:
    """The columns that not all files with rows have, and a file that lacks them."""
    names = dict.fromkeys(name for part in parts for name in part.table.column_names)
    lacks = {
        name: file.path
        for name in names
        for file, part in zip(files, parts, strict=True)
        if part.table.num_rows and name not in part.table.column_names
    }
    empty = {
        name
        for name in names
        if not any(name in p.table.column_names for p in parts if p.table.num_rows)
    }
    return {name: path for name, path in lacks.items() if name not in empty}


def _text_part(file: InputFile, kind: Kind, share: int) -> Part:
    """Rows of a text file."""
    tables, uneven, num_bytes, reached = [], 0, 0, True
    dialect, encodings = kind.dialect, set[str]()
    for number, (data, is_cut) in enumerate(text_blocks(file, share, kind.encoding)):
        reached &= not is_cut
        num_bytes += len(data)
        encoding = kind.encoding if is_wide(kind.encoding) else encoding_of(data)
        encodings.update(() if data.isascii() else (encoding,))
        text = text_of(data, encoding).encode()
        if dialect is None:
            table, bad = json_rows(text)
        else:
            table, bad = csv_rows(text, dialect, from_start=number == 0)
            dialect = replace(dialect, names=tuple(table.column_names))
        tables.append(plain_table(table))
        uneven += bad
    table, _ = merged(tables)
    if reached:
        return Part(table, table.num_rows, True, uneven, frozenset(encodings))
    is_packed = is_compressed(read_ranges(file.path, [(0, 8)])[0])
    size = file.size * (TIMES_SMALLER if is_packed else 1)
    rows = table.num_rows * max(size / max(num_bytes, 1), 1.0)
    return Part(table, rows, False, uneven, frozenset(encodings))


def text_blocks(file: InputFile, share: int, encoding: str) -> Iterator[tuple[bytes, bool]]:
    """Whole lines of a text file, and whether lines are left out behind them.

    All of a small file; of a larger one its beginning, its middle and its end; its beginning alone
    if it is compressed or of two bytes a letter, since it can't be read from elsewhere.
    """
    head = head_of(file.path, share + 1)
    if len(head) <= share:
        yield head, False
        return
    if is_wide(encoding):
        lines = text_of(head[: share // 2 * 2], encoding).rpartition("\n")
        yield "".join(lines[:2]).encode(encoding), True
        return
    if is_compressed(read_ranges(file.path, [(0, 8)])[0]):
        yield whole_lines(head[:share], from_start=True, to_end=False), True
        return
    third = share // 3
    yield whole_lines(head[:third], from_start=True, to_end=False), True
    middle, end = read_ranges(
        file.path, [(file.size // 2, third), (max(file.size - third, third), third)]
    )
    yield whole_lines(middle, from_start=False, to_end=False), True
    yield whole_lines(end, from_start=False, to_end=True), True


def _parquet_part(file: DataFile, share: int, most_rows: int) -> Part:
    """Likewise of a Parquet file: of its first and last row groups, the usable columns."""
    filesystem, inside = open_filesystem(file.path)
    with filesystem.open(inside, "rb") as opened:
        parquet = pq.ParquetFile(opened)
        groups = _some_groups(parquet, share)
        rows = parquet.metadata.num_rows - len(file.deleted_rows())
    schema, _ = footer_of(file)
    unusable = unusable_of(schema)
    names = [name for name, _ in leaves(schema) if name not in unusable]
    empty = plain_table(schema.empty_table()).select(names)
    table, _ = merged([empty, *_chunks(file, groups, names, most_rows)])
    return Part(table, rows, table.num_rows == rows)


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


def _chunks(
    file: DataFile, groups: list[int], names: list[str], most_rows: int
) -> Iterator[pa.Table]:
    for group in groups:
        left = most_rows // len(groups)
        for chunk in read_rows(file, group, names):
            if isinstance(chunk, pa.Table):
                yield plain_table(chunk).slice(0, left)
                left -= chunk.num_rows
            if left <= 0:
                break
