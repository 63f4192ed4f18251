"""Files of text, decompressed as their first bytes say, whatever their name is."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from diffsasrec.errors import InputDataError
from diffsasrec.files.urls import open_filesystem

Opener = Callable[[Any], Any]


def _by_arrow(codec: str) -> Opener:
    return lambda raw: pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)


_MAGIC: tuple[tuple[bytes, Opener], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"\x28\xb5\x2f\xfd", _by_arrow("zstd")),
    (b"\x04\x22\x4d\x18", _by_arrow("lz4")),
)
_ZIP, _ZLIB = b"PK\x03\x04", (b"x\x01", b"x\x9c")
_LONGEST = max(len(magic) for magic, _ in _MAGIC)
_WORKBOOKS = {"[Content_Types].xml": "an Office document (xlsx)", "content.xml": "an OpenDocument"}


def is_compressed(head: bytes) -> bool:
    """Whether `open_text` decompresses a file with these first bytes, or says why it can't."""
    return head.startswith((*(magic for magic, _ in _MAGIC), _ZIP, *_ZLIB))


def open_text(path: str, data: bytes | None = None) -> Any:
    """A text file for reading, decompressed; `data`: its bytes, if known.

    Raises:
        InputDataError: an archive of several files.
    """
    filesystem, inside = open_filesystem(path)
    raw = filesystem.open(inside, "rb") if data is None else io.BytesIO(data)
    head = raw.read(_LONGEST)
    raw.seek(0)
    for magic, decompress in _MAGIC:
        if head.startswith(magic):
            return decompress(raw)
    if head.startswith(_ZIP):
        return _member(path, zipfile.ZipFile(raw))
    if head.startswith(_ZLIB):
        raise InputDataError(
            f"{path} is compressed by zlib without a header that names it (deflate); "
            "write it as .gz, .zst or plain text"
        )
    return raw


def _member(path: str, archive: zipfile.ZipFile) -> Any:
    """The only file of an archive."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    for name, what in _WORKBOOKS.items():
        if name in names:
            raise InputDataError(f"{path} is {what}; save its sheet as CSV")
    names = [n for n in names if not n.startswith("__MACOSX/")]
    names = [n for n in names if not n.rpartition("/")[2].startswith(".")]
    if len(names) != 1:
        raise InputDataError(f"{path} holds {len(names)} files; give each a file of its own")
    return archive.open(names[0])
