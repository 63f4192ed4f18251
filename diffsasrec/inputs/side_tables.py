"""Tables that lie beside the log: rules, and what items are called.

A table is a file or a directory of files, Parquet or CSV. They are read like the log, except that
nothing may be left out: a table with a row that can't be read is refused.
"""

import hashlib
import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.urls import open_filesystem, resolve_path
from diffsasrec.formats.chunks import CHUNK_BYTES
from diffsasrec.formats.compression import open_text
from diffsasrec.formats.csv_layout import CsvStyle
from diffsasrec.formats.csv_rows import csv_layout, read_csv
from diffsasrec.formats.listing import InputFile, list_files
from diffsasrec.inputs.log_files import BROKEN
from diffsasrec.inputs.log_types import time_kind
from diffsasrec.inputs.moments import read_times
from diffsasrec.schema import canonical, canonical_type

PARQUET = (".parquet", ".parq", ".pq")
MOMENT = pa.timestamp("us", "UTC")
TYPES = {"id": pa.string(), "text": pa.string(), "number": pa.float64(), "moment": MOMENT}
OPTIONAL = "?"  # behind the kind of a column that a file may lack; its rows are null there


def read_item_ids(path: str, key: str) -> pa.Array:
    """The column item_id of a rule table, canonical; `key` is the config key that names it.

    Raises:
        ConfigError: names the key, the file and what is wrong with it.
    """
    return read_columns(path, key, {"item_id": "id"})["item_id"].combine_chunks().drop_null()


def read_columns(path: str, key: str, columns: Mapping[str, str]) -> pa.Table:
    """Some columns of a table: ids canonical ("id"), others by their kind in `TYPES`.

    Args:
        columns: the kind of each; with "?" behind it, a file may lack the column.

    Raises:
        ConfigError: names the key, the file and what is wrong with it.
    """
    files = table_files(path, key)
    parts = [read_file(file, key, columns) for file in files]
    filled = [part for part in parts if part.num_rows] or parts[:1]
    for file, part in zip(files, parts, strict=True):
        if part.num_rows and part.schema != filled[0].schema:
            raise ConfigError(
                f"{key}={file.path}: its columns are {_types(part)}, in another file of "
                f"{path} {_types(filled[0])}; write them alike"
            )
    if not filled:
        return pa.table({n: pa.array([], TYPES[kind.strip("?")]) for n, kind in columns.items()})
    return pa.concat_tables(filled)


def _types(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)


def table_files(path: str, key: str) -> list[InputFile]:
    """The files of a table, sorted by path; [] for a directory without any.

    Raises:
        ConfigError: nothing is there.
    """
    url = resolve_path(path, key)
    filesystem, inside = open_filesystem(url)
    try:
        files = list_files(url).files
        if not files and not filesystem.isdir(inside):
            raise FileNotFoundError("nothing has this name")
    except OSError as error:
        raise ConfigError(f"{key}={path} can't be read: {error}") from None
    return files


def read_file(
    file: InputFile, key: str, columns: Mapping[str, str], data: bytes | None = None
) -> pa.Table:
    """`read_columns` of one file; `data`: its bytes, if they were read already.

    Raises:
        ConfigError: names the key, the file and what is wrong with it.
    """
    return _checked(file, key, columns, data, whole=True)


def check_file(file: InputFile, key: str, columns: Mapping[str, str]) -> None:
    """Raises like `read_file`, but checks only the columns."""
    _checked(file, key, columns, None, whole=False)


def _checked(
    file: InputFile, key: str, columns: Mapping[str, str], data: bytes | None, *, whole: bool
) -> pa.Table:
    where = f"{key}={file.path}"
    try:
        read = _read_parquet if _is_parquet(file.path, data) else _read_text
        table = read(file.path, columns, where, data, whole=whole)
    except InputDataError as error:  # an archive of several files
        raise ConfigError(f"{key}: {error}") from None
    except BROKEN as error:
        raise ConfigError(f"{where} can't be read: {error}") from None
    found = {name: table[name] for name in table.column_names}
    nothing = pa.chunked_array([pa.nulls(table.num_rows)])
    checks = {"id": _ids, "text": _text, "number": _numbers, "moment": _moments}
    return pa.table(
        {
            name: checks[kind.strip(OPTIONAL)](found.get(name, nothing), name, where)
            for name, kind in columns.items()
        }
    )


def digest(file: InputFile) -> str:
    """The sha256 of a file's bytes, with few of them in memory at a time."""
    filesystem, inside = open_filesystem(file.path)
    found = hashlib.sha256()
    with filesystem.open(inside, "rb") as opened:
        while block := opened.read(CHUNK_BYTES):
            found.update(block)
    return found.hexdigest()


def read_bytes(file: InputFile) -> bytes:
    filesystem, inside = open_filesystem(file.path)
    return bytes(filesystem.cat_file(inside))


def _is_parquet(path: str, data: bytes | None) -> bool:
    """Decides by the name, or by the first bytes if the name says nothing (Spark, Hive)."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(PARQUET) or ".csv" in name:
        return name.endswith(PARQUET)
    with _opened(path, data) as file:
        return bool(file.read(4) == b"PAR1")


def _opened(path: str, data: bytes | None) -> io.IOBase:
    filesystem, inside = open_filesystem(path)
    file: io.IOBase = filesystem.open(inside, "rb") if data is None else io.BytesIO(data)
    return file


def _read_parquet(
    path: str, columns: Mapping[str, str], where: str, data: bytes | None, *, whole: bool
) -> pa.Table:
    with _opened(path, data) as file:
        # in a page with a checksum, a flipped bit is an error and not another id
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        names = _present(columns, parquet.schema_arrow.names, where)
        if not whole:
            return parquet.schema_arrow.empty_table()
        return parquet.read(columns=names)


def _read_text(
    path: str, columns: Mapping[str, str], where: str, data: bytes | None, *, whole: bool
) -> pa.Table:
    """The columns as strings: 007 and 7 are different ids, and NA is an id."""
    with open_text(path, data) as file:
        layout = csv_layout(file, _required(columns), CsvStyle())
    if layout is None:
        raise ConfigError(f"{where} is empty, without a header; remove it or write it again")
    names = _present(columns, layout.names, where)
    parts = [pa.table({name: pa.array([], pa.string()) for name in names})]
    with open_text(path, data) as file:
        for chunk in read_csv(file, names, names=names) if whole else ():
            if chunk.malformed:
                raise ConfigError(
                    f"{where}: {len(chunk.malformed)} lines are no rows of it, as in "
                    f"{chunk.malformed[0][:200]!r}; write the file again"
                )
            chunk.rows.validate(full=True)  # an id must be UTF-8
            parts.append(chunk.rows)
    return pa.concat_tables(parts)


def _required(columns: Mapping[str, str]) -> list[str]:
    return [name for name, kind in columns.items() if not kind.endswith(OPTIONAL)]


def _present(columns: Mapping[str, str], found: list[str], where: str) -> list[str]:
    """Those of the columns that a file has; all that it must have, and each once."""
    required = _required(columns)
    for name in columns:
        if found.count(name) != 1 and (name in required or name in found):
            raise ConfigError(
                f"{where} has no column {name}, or two; it has {found}"
                + ("; are its fields separated by commas?" if len(found) == 1 else "")
            )
    return [name for name in columns if name in found]


def _ids(ids: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    if pa.types.is_null(ids.type):  # the type of a table of objects that was written empty
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


def _numbers(values: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    try:
        return values.cast(pa.float64())
    except pa.ArrowException as error:
        raise ConfigError(f"{where}: {name} is no number in every row: {error}") from None


def _moments(values: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """Times; texts are ISO 8601. What has no zone is UTC."""
    if time_kind(values.type) in (None, "number"):
        raise ConfigError(
            f"{where}: {name} is {values.type}; write a timestamp, or a text as in "
            "2026-11-23T00:00:00Z"
        )
    times = values.combine_chunks()
    found, wrong, beyond = read_times(times, None)
    if (bad := wrong | beyond).any():
        raise ConfigError(
            f"{where}: {name} {times.filter(pa.array(bad))[0].as_py()!r} is no time; write it as "
            "in 2026-11-23T00:00:00Z"
        )
    known = pa.array(found, MOMENT)
    return pa.chunked_array([pc.if_else(times.is_valid(), known, pa.scalar(None, MOMENT))])
