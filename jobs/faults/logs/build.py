"""Hostile logs: files that no writer should produce, and what a run has to make of each.

A log is good events and some that are not; every row of it is kept, quarantined under a reason or
dropped under one, or the whole log is refused with an exit code and a message.
"""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Event = tuple[Any, Any, float]  # user, item, seconds since 1970

START = 1_704_067_200  # 2024-01-01 in seconds
RUN_DATE = "2024-03-01"
LATE = 1_709_251_200  # the run date
GOOD: list[Event] = [(f"u{n % 4}", f"i{n % 5}", START + 3600 * n) for n in range(40)]
HEADER = "user_id,item_id,timestamp\n"
T = START + 999_999  # a time of no good event
NAMES = [
    "../../etc/passwd",
    "a/b",
    "..",
    "\x00",
    "a\x00b",
    "ÿ→字🦆",
    "e\u0301",
    "\u202e",
    "'; --",
    " ",
]
CHUNK = 8 * 2**20  # text is read in chunks of so many bytes

Files = dict[str, bytes]


@dataclass(frozen=True)
class Log:
    files: Callable[[], Files]
    settings: dict[str, Any] = field(default_factory=dict)  # of the section events
    split: dict[str, Any] = field(default_factory=dict)
    kept: Callable[[], list[Event]] = lambda: GOOD  # what the sequences must hold
    bad: dict[str, int] = field(default_factory=dict)  # rows in quarantine by reason
    dropped: dict[str, int] = field(default_factory=dict)  # rows left out by reason
    code: int = 0  # exit code
    says: tuple[str, ...] = ()  # what the message of a refused log holds

    @property
    def rows(self) -> int:
        """All rows of the files of a log that is not refused."""
        return len(self.kept()) + sum(self.bad.values()) + sum(self.dropped.values())

    def write(self, directory: Path) -> None:
        directory.mkdir()
        for name, data in self.files().items():
            (directory / name).write_bytes(data)


def parquet(columns: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, buffer, **settings)
    return buffer.getvalue()


def columns_of(events: list[Event], **types: pa.DataType) -> dict[str, pa.Array]:
    names = ("user_id", "item_id", "timestamp")
    return {
        name: pa.array([event[n] for event in events], types.get(name))
        for n, name in enumerate(names)
    }


def rows(*more: Any, kept: int = 0, **rest: Any) -> Log:
    """A Parquet log of the good events and `more`, of which the first `kept` are good too."""
    types = {name: rest.pop(name) for name in ("user_id", "item_id", "timestamp") if name in rest}
    return Log(
        files=lambda: {"log.parquet": parquet(columns_of([*GOOD, *more], **types))},
        kept=lambda: [*GOOD, *more[:kept]],
        **rest,
    )


def refused(data: bytes, *says: str, name: str = "bad.parquet", **settings: Any) -> Log:
    """A good file and one that can't be read as a whole; the message names the second."""
    other = {
        "parquet": parquet(columns_of(GOOD)),
        "csv": csv_lines().encode(),
        "jsonl": json_lines().encode(),
    }
    kind = settings.get("format", "parquet")
    return Log(
        files=lambda: {f"a-good.{kind}": other[kind], name: data},
        settings=settings,
        code=3,
        says=(f"/{name}", *says),
    )


def with_column(name: str, values: pa.Array) -> bytes:
    return parquet({**columns_of(GOOD[: len(values)]), name: values})


def csv_lines(events: list[Event] = GOOD) -> str:
    return HEADER + "".join(f"{user},{item},{time}\n" for user, item, time in events)


def csv(more: str | bytes, *kept: Event, before: bytes = b"", **rest: Any) -> Log:
    """A CSV log of the good events and some text; `kept`: the events that are in the text."""
    data = before + csv_lines().encode() + (more.encode() if isinstance(more, str) else more)
    rest["settings"] = {"format": "csv", **rest.get("settings", {})}
    return Log(files=lambda: {"log.csv": data}, kept=lambda: [*GOOD, *kept], **rest)


def noted_csv(more: str | bytes, *kept: Event, **rest: Any) -> Log:
    """The same with a column of notes behind the others."""
    good = csv_lines().replace("timestamp\n", "timestamp,note\n").encode()
    noted = good.split(b"\n", 1)[0] + b"\n" + good.split(b"\n", 1)[1].replace(b"\n", b",fine\n")
    data = noted + (more.encode() if isinstance(more, str) else more)
    return Log(
        files=lambda: {"log.csv": data},
        settings={"format": "csv"},
        kept=lambda: [*GOOD, *kept],
        **rest,
    )


def json_line(user: Any, item: Any, time: Any, **more: Any) -> str:
    return json.dumps({"user_id": user, "item_id": item, "timestamp": time, **more}) + "\n"


def json_lines(events: list[Event] = GOOD) -> str:
    return "".join(json_line(*event) for event in events)


def jsonl(more: str | bytes, *kept: Event, before: bytes = b"", **rest: Any) -> Log:
    """A log of JSON lines: the good events and some text, of which `kept` are events."""
    data = before + json_lines().encode() + (more.encode() if isinstance(more, str) else more)
    return Log(
        files=lambda: {"log.jsonl": data},
        settings={"format": "jsonl", **rest.pop("settings", {})},
        kept=lambda: [*GOOD, *kept],
        **rest,
    )


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, csv_lines())
    return buffer.getvalue()


def border_csv() -> bytes:
    """Rows of a quoted id over two lines, so that one lies over every border of a chunk."""
    noise = "x" * 100
    line = f'"two\nlines",i0,{GOOD[20][2]},"{noise}\n{noise}"\n'
    return (HEADER[:-1] + ",note\n" + line * (CHUNK // len(line) + 2)).encode()


def border_rows() -> int:
    return (border_csv().count(b"\n") - 1) // 3


def flipped_page() -> bytes:
    """A bit flipped in a page that has a checksum: without it the ids would be other ids."""
    data = bytearray(
        parquet(
            columns_of(GOOD), use_dictionary=False, compression="none", write_page_checksum=True
        )
    )
    data[data.index(b"u2")] ^= 1  # u0 and u3 stand in the statistics too
    return bytes(data)


def bot(events: int) -> dict[str, Any]:
    times = START * 10**6 + np.arange(events)
    return {
        "user_id": pa.array(["bot"] * events),
        "item_id": pa.array(np.char.add("i", (np.arange(events) % 5).astype(str))),
        "timestamp": pa.array(times, pa.timestamp("us")),
    }


WHOLE = parquet(columns_of(GOOD))
