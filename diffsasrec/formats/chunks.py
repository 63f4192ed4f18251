"""Raw rows in chunks of bounded size, and what CSV and JSON lines have in common."""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

RAW = ("user_id", "item_id", "timestamp")  # the raw columns, under our names
CHUNK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 64 * 2**20  # a longer line is not a line of a log
BOM = b"\xef\xbb\xbf"
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF8 = ("utf-8", "utf8", "ascii")


@dataclass(frozen=True)
class RawChunk:
    rows: (
        pa.Table
    )  # columns user_id, item_id, timestamp, as read; for a table beside the log, its own
    malformed: list[str]  # lines that are not rows at all (CSV, JSON lines)
    skipped: Mapping[str, int] = field(default_factory=dict)  # rows that are left out, by a reason
    other_types: Mapping[str, int] = field(default_factory=dict)  # some of these, by their type


def blocks_of(file: Any, encoding: str = "utf-8") -> Iterator[bytes]:
    """The blocks of a text file as UTF-8 without its byte order mark; the last one is empty.

    A byte order mark of UTF-16 says more than `encoding`. Text that is UTF-8 is not checked.

    Raises:
        UnicodeDecodeError: the text is not in this encoding.
    """
    block = file.read(CHUNK_BYTES)
    if block.startswith(_WIDE):
        encoding = "utf-16"
    decoder = None
    if encoding.lower() in UTF8:
        block = block.removeprefix(BOM) or block[:0]
    else:
        decoder = codecs.getincrementaldecoder(encoding)()
    while block:
        yield block if decoder is None else decoder.decode(block).encode()
        block = file.read(CHUNK_BYTES)
    if decoder is not None and (rest := decoder.decode(b"", final=True).encode()):
        yield rest
    yield b""


def refuse_endless(rest: bytes) -> None:
    if len(rest) > MAX_LINE_BYTES:
        raise ValueError(f"a line is longer than {MAX_LINE_BYTES >> 20} MiB")


def shown(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
