"""Hostile Parquet logs by name: broken files, other schemas, ids and times that are none."""

from decimal import Decimal

import pyarrow as pa

from .build import (
    GOOD,
    LATE,
    NAMES,
    START,
    WHOLE,
    Event,
    Log,
    T,
    bot,
    columns_of,
    csv_lines,
    flipped_page,
    parquet,
    refused,
    rows,
    with_column,
)

EMPTY = parquet(pa.table(columns_of(GOOD)).slice(0, 0))
NUMBERS: list[Event] = [(n % 4, n % 5, START + 3600 * n) for n in range(40)]
NS = 10**9
TWICE = pa.table(
    [pa.array(["u"]), pa.array(["i"]), pa.array([T]), pa.array(["v"])],
    names=["user_id", "item_id", "timestamp", "user_id"],
)
NAN, INFINITE = float("nan"), float("inf")
FLOAT_IDS: list[Event] = [(9, 7.0, T), (9, 7.5, T), (9, NAN, T), (9, INFINITE, T), (9, 1e300, T)]
FLOAT_TIMES: list[Event] = [("u0", "i0", t) for t in (START + 0.25, NAN, INFINITE, -INFINITE)]


def moments(unit: str, *values: int) -> bytes:
    """The good events and others, their times as timestamps of a unit."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": NS}[unit]
    times = [time * per_second for _, _, time in GOOD]
    ids = columns_of([*GOOD, *[("u0", "i0", 0)] * len(values)])
    return parquet({**ids, "timestamp": pa.array([*times, *values], pa.timestamp(unit))})


def zoned(zone: str) -> bytes:
    """The good events, their times with a zone."""
    times = pa.array([time for _, _, time in GOOD], pa.timestamp("s", zone))
    return parquet({**columns_of(GOOD), "timestamp": times})


def invalid_utf8() -> bytes:
    """A good row, and one for each id that holds a byte that is no UTF-8."""
    users, items = [b"u9", b"u\xff", b"u0"], [b"i9", b"i0", b"i\xff"]
    wide = pa.array(items, pa.large_binary()).view(pa.large_string())
    return parquet(
        {"user_id": pa.array(users).view(pa.string()), "item_id": wide, "timestamp": [T] * 3}
    )


WHOLE_US = moments("us")

FILES: dict[str, Log] = {
    "parquet truncated": refused(WHOLE[:-20], "can't be read as parquet", "write the file again"),
    "parquet cut in the middle": refused(WHOLE[: len(WHOLE) // 2], "can't be read as parquet"),
    "parquet with a wrong magic": refused(b"RAP1" + WHOLE[4:-4] + b"RAP1", "can't be read"),
    "parquet of zero bytes": refused(b"", "can't be read as parquet"),
    "parquet that is csv": refused(csv_lines().encode(), "can't be read as parquet"),
    "parquet with a flipped bit": refused(flipped_page(), "can't be read as parquet"),
    "parquet with garbage pages": refused(
        WHOLE[:4] + b"\xff" * 60 + WHOLE[64:], "can't be read as parquet"
    ),
    "missing column": refused(
        parquet(pa.table(columns_of(GOOD)).drop("item_id")), "no column item_id", "item_column"
    ),
    "duplicate column": refused(parquet(TWICE), "more than one column user_id"),
    "other id type": refused(
        with_column("user_id", pa.array([1, 2])), "is int64", "events.id_type"
    ),
    "other time unit": refused(moments("us"), "timestamp[us]", "rewrite one"),
    "float ids": Log(
        lambda: {"log.parquet": parquet(columns_of([*NUMBERS, *FLOAT_IDS], item_id=pa.float64()))},
        kept=lambda: [*NUMBERS, FLOAT_IDS[0]],
        bad={"wrong_type_item_id": 3, "null_item_id": 1},
    ),
    "decimal ids": refused(
        with_column("user_id", pa.array([Decimal("1.5")])), "decimal128", "cast the column"
    ),
    "boolean ids": refused(with_column("user_id", pa.array([True])), "is bool", "cast the column"),
    "binary ids": refused(with_column("user_id", pa.array([b"u"])), "is binary", "cast the column"),
    "null ids": Log(
        lambda: {"log.parquet": with_column("item_id", pa.array([None]))},
        code=3,
        says=("item_id is null", "cast the column"),
    ),
    "null ids beside others": Log(
        lambda: {"a.parquet": WHOLE, "b.parquet": with_column("item_id", pa.array([None]))},
        bad={"null_item_id": 1},
    ),
    "widths and signs of ids": Log(
        lambda: {
            f"{kind}.parquet": parquet(columns_of(NUMBERS, user_id=kind, item_id=kind))
            for kind in (pa.int8(), pa.uint32(), pa.int64(), pa.float64(), pa.decimal128(20))
        },
        kept=lambda: NUMBERS,
        dropped={"duplicate": 4 * len(NUMBERS)},
    ),
    "units and zones of times": Log(
        lambda: {
            "s.parquet": moments("s"),
            "ms.parquet": moments("ms"),
            "ns.parquet": moments("ns"),
            "zone.parquet": zoned("America/New_York"),
        },
        {"time_unit": None},
        dropped={"duplicate": 3 * len(GOOD)},
    ),
    "list ids": refused(with_column("item_id", pa.array([["i"]])), "cast the column"),
    "float times": Log(
        lambda: {
            "a.parquet": WHOLE,
            "b.parquet": parquet(columns_of(FLOAT_TIMES, timestamp=pa.float64())),
        },
        kept=lambda: [*GOOD, ("u0", "i0", START + 0.25)],
        bad={"null_time": 1, "unparsable_time": 2},
    ),
    "boolean times": Log(
        lambda: {"log.parquet": with_column("timestamp", pa.array([True]))},
        code=3,
        says=("/log.parquet", "times must be", "cast the column"),
    ),
    "no rows at all": Log(
        lambda: {"log.parquet": EMPTY}, code=3, says=("hold no row", "bring a log")
    ),
    "a file without rows": Log(lambda: {"a.parquet": EMPTY, "b.parquet": WHOLE}),
    "no file": Log(dict, code=3, says=("holds no file", "check the path")),
    "unit not set": Log(
        lambda: {"log.parquet": WHOLE},
        {"time_unit": None},
        code=2,
        says=("events.time_unit is not set", "set it to"),
    ),
    "unit set twice": Log(
        lambda: {"log.parquet": moments("ms")}, code=2, says=("remove events.time_unit",)
    ),
}

ROWS: dict[str, Log] = {
    "clean": rows(),
    "nulls": rows(
        (None, "i0", T),
        ("u0", None, T),
        ("u0", "i0", None),
        (None, None, None),
        bad={"null_user_id": 2, "null_item_id": 1, "null_time": 1},
    ),
    "empty ids": rows(("", "i0", T), ("u0", "", T), bad={"empty_user_id": 1, "empty_item_id": 1}),
    "names": rows(*[(name, name, T) for name in NAMES], kept=len(NAMES)),
    "an id of a megabyte": rows(("u" * 2**20, "i" * 2**20, T), kept=1),
    "ids of 25 digits": rows(("9" * 25, "1" + "0" * 24, T), kept=1),
    "ids of 25 digits as integers": Log(
        lambda: {
            "log.parquet": parquet(
                columns_of([*((str(u), str(i), t) for u, i, t in NUMBERS), ("9" * 25, "x", T)])
            )
        },
        {"id_type": "int64"},
        kept=lambda: NUMBERS,
        bad={"wrong_type_user_id": 1},
    ),
    "unsigned ids beyond 2^63": Log(
        lambda: {
            "log.parquet": parquet(
                columns_of(
                    [*NUMBERS, (2**64 - 1, 2**63, T)], user_id=pa.uint64(), item_id=pa.uint64()
                )
            )
        },
        kept=lambda: [*NUMBERS, (2**64 - 1, 2**63, T)],
    ),
    "unsigned ids beyond 2^63 as signed": Log(
        lambda: {
            "log.parquet": parquet(
                columns_of(
                    [*NUMBERS, (2**63, 0, T), (0, 2**64 - 1, T)],
                    user_id=pa.uint64(),
                    item_id=pa.uint64(),
                )
            )
        },
        {"id_type": "int64"},
        kept=lambda: NUMBERS,
        bad={"wrong_type_user_id": 1, "wrong_type_item_id": 1},
    ),
    "dictionary ids": rows(
        (None, "i0", T),
        user_id=pa.dictionary(pa.int8(), pa.string()),
        item_id=pa.dictionary(pa.int32(), pa.large_string()),
        bad={"null_user_id": 1},
    ),
    "bytes that are no text": Log(
        lambda: {"a.parquet": WHOLE, "b.parquet": invalid_utf8()},
        kept=lambda: [*GOOD, ("u9", "i9", T)],
        bad={"invalid_utf8_user_id": 1, "invalid_utf8_item_id": 1},
    ),
    "negative times": rows(("u0", "i0", -1), ("u0", "i0", -(2**40)), bad={"negative_time": 2}),
    "times out of range": rows(
        ("u0", "i0", 2**63 - 1), ("u0", "i0", -(2**63)), bad={"time_out_of_range": 2}
    ),
    "nanoseconds from 1677 to 2262": Log(
        lambda: {"log.parquet": moments("ns", -(2**63) + 1, -1, 0, 2**63 - 1)},
        {"time_unit": None},
        kept=lambda: [*GOOD, ("u0", "i0", 0)],
        bad={"negative_time": 2},
        dropped={"after_run_date": 1},
    ),
    "milliseconds among seconds": rows(
        ("u0", "i0", START * 1000),
        ("u0", "i0", START * NS),
        dropped={"after_run_date": 1},
        bad={"time_out_of_range": 1},
    ),
    "future events": rows(
        ("u0", "i0", LATE - 1),
        ("u0", "i0", LATE),
        ("u9", "i9", LATE + 1),
        kept=1,
        dropped={"after_run_date": 2},
    ),
    "future events alone": Log(
        lambda: {"log.parquet": parquet(columns_of([("u", "i", LATE)] * 3))},
        code=3,
        says=("no event is left of 3 rows: 3 lie at or after", "check events.time_unit"),
    ),
    "every row three times": rows(*GOOD, *GOOD, dropped={"duplicate": 2 * len(GOOD)}),
    "rare items": rows(
        ("u0", "once", T),
        ("new", "once too", T),
        split={"min_item_count": 2},
        dropped={"rare_item": 2},
    ),
    "every item rare": rows(
        split={"min_item_count": 9}, code=3, says=("min_item_count=9", "lower it")
    ),
    "a user with a million events": Log(
        lambda: {"a.parquet": WHOLE_US, "b.parquet": parquet(bot(10**6))},
        {"time_unit": None},
        kept=lambda: [
            *GOOD,
            *(("bot", f"i{n % 5}", START + n / 1e6) for n in range(9 * 10**5, 10**6)),
        ],
        dropped={"over_max_user_events": 9 * 10**5},
    ),
    "one item": Log(
        lambda: {"log.parquet": parquet(columns_of([(u, "i", t) for u, _, t in GOOD]))},
        kept=lambda: [(u, "i", t) for u, _, t in GOOD],
    ),
    "one user": Log(
        lambda: {"log.parquet": parquet(columns_of([("u", i, t) for _, i, t in GOOD]))},
        kept=lambda: [("u", i, t) for _, i, t in GOOD],
    ),
    "one instant": Log(
        lambda: {"log.parquet": parquet(columns_of([(u, i, T) for u, i, _ in GOOD]))},
        code=3,
        says=("at one instant, 2024-01-12T13:46:39", "bring more history"),
    ),
    "a fixed split after the log": Log(
        lambda: {"log.parquet": WHOLE},
        split={"time": "2024-02-01"},
        code=2,
        says=("nothing on one side", "2024-02-01", "change split.time"),
    ),
    "too many bad rows": rows(
        (None, "i", T),
        settings={"max_bad_fraction": 0.01},
        code=3,
        says=("1 of 41 rows are bad (null_user_id 1)", "quarantine/", "repair the log"),
    ),
}

PARQUET_LOGS = FILES | ROWS
