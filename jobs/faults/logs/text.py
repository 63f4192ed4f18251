"""Hostile CSV and JSON lines by name: quotes, bytes, nesting and lines that are no rows."""

import gzip
import json

from .build import (
    CHUNK,
    GOOD,
    HEADER,
    NAMES,
    START,
    WHOLE,
    Log,
    T,
    border_csv,
    border_rows,
    csv,
    csv_lines,
    json_line,
    json_lines,
    jsonl,
    noted_csv,
    refused,
    zipped,
)

CSV, JSONL = {"format": "csv"}, {"format": "jsonl"}

CSV_LOGS = {
    "csv": csv(""),
    "csv ragged": csv("u\nu0,i0\nu0,i0,5,6\n,,,,,\n", bad={"malformed_row": 4}),
    "csv blank lines": csv(f"\n\r\n\nu9,i9,{T}\n\n", ("u9", "i9", T)),
    "csv without its last newline": csv(f"u9,i9,{T}", ("u9", "i9", T)),
    "csv cut in its last row": csv("u9,i", bad={"malformed_row": 1}),
    "csv quoted newline": csv(f'"u\n9","i,""9""",{T}\n', ("u\n9", 'i,"9"', T)),
    "csv quoted newlines at the borders of chunks": Log(
        lambda: {"a.csv": csv_lines().encode(), "b.csv": border_csv()},
        CSV,
        kept=lambda: [*GOOD, ("two\nlines", "i0", GOOD[20][2])],
        dropped={"duplicate": border_rows() - 1},
    ),
    "csv quote that never closes": csv(
        f'"u0,i0,5\nu9,i9,{T}\n', ("u9", "i9", T), bad={"malformed_row": 1}
    ),
    "csv last quote that never closes": noted_csv(
        f'u0,i0,5,"oops\nu9,i9,{T},fine\n', ("u9", "i9", T), bad={"malformed_row": 1}
    ),
    "csv quote that closes in a later row": noted_csv(
        f'u0,i0,5,"oops\nu9,i9,{T},fine\nu8,i8,{T},"fine"\n',
        ("u9", "i9", T),
        ("u8", "i8", T),
        bad={"malformed_row": 1},
    ),
    "csv quotes inside a field": noted_csv(f'u9,i9,{T},a 5" disk\n', ("u9", "i9", T)),
    "csv bytes that are no text": csv(
        b"caf\xe9,i0,5\nu0,caf\xe9,5\nu0,i0,\xe95\nu0,caf\xe9\n",
        bad={
            "invalid_utf8_user_id": 1,
            "invalid_utf8_item_id": 1,
            "unparsable_time": 1,
            "malformed_row": 1,
        },
    ),
    "csv bytes that are no text in another column": noted_csv(
        f"u9,i9,{T},".encode() + b"caf\xe9\n", ("u9", "i9", T)
    ),
    "csv byte order mark": csv("", before=b"\xef\xbb\xbf"),
    "csv of windows": Log(lambda: {"log.csv": csv_lines().replace("\n", "\r\n").encode()}, CSV),
    "csv of an old mac": Log(lambda: {"log.csv": csv_lines().replace("\n", "\r").encode()}, CSV),
    "csv nulls": csv(b"\x00\x00\x00\n", bad={"malformed_row": 1}),
    "csv names": csv(
        f"../../etc/passwd,a\x00b,{T}\n..,a/b,{T}\n",
        ("../../etc/passwd", "a\x00b", T),
        ("..", "a/b", T),
    ),
    "csv empty ids": csv(
        f',i0,{T}\n"",i0,{T}\nu0,,{T}\nu0,"",{T}\nu0,i0,\n',
        bad={
            "null_user_id": 1,
            "empty_user_id": 1,
            "null_item_id": 1,
            "empty_item_id": 1,
            "null_time": 1,
        },
    ),
    "csv times that are none": csv(
        "u0,i0,NaN\nu0,i0,inf\nu0,i0,1e9\nu0,i0,2024-01-01\nu0,i0,99999999999999999999\nu0,i0,-1\n",
        ("u0", "i0", 1e9),
        bad={"null_time": 1, "unparsable_time": 2, "time_out_of_range": 1, "negative_time": 1},
    ),
    "csv iso times from 1677 to 2262": Log(
        lambda: {
            "log.csv": (
                HEADER + "u,i,1677-09-21T00:12:44Z\nu,i,2262-04-11T23:47:16.854775807Z\n"
                "u,i,9999-12-31\nu,i,10000-01-01\nu,i,2024-01-01T24:00\nu,i,now\nu,i,1970-01-01\n"
                "u,i,2024-01-01T02:00:00+02:00\nu,i,2024-01-01T01:00:00.000001\n"
            ).encode()
        },
        {**CSV, "time_unit": None},
        kept=lambda: [
            ("u", "i", 0),
            ("u", "i", START),
            ("u", "i", START + 3600.000001),
            ("u", "i", START + 86400),
        ],
        bad={"negative_time": 1, "unparsable_time": 2},
        dropped={"after_run_date": 2},
    ),
    "csv header alone": Log(
        lambda: {"log.csv": HEADER.encode()}, CSV, code=3, says=("hold no row", "bring a log")
    ),
    "csv without rows beside rows": Log(
        lambda: {"a.csv": b"", "b.csv": b"\n \n", "c.csv": csv_lines().encode()}, CSV
    ),
    "csv header beside rows": Log(
        lambda: {"a.csv": HEADER[:-1].encode(), "b.csv": csv_lines().encode()}, CSV
    ),
    "csv missing column": refused(
        b"user_id,item_id\nu,i\n",
        "no column timestamp",
        "events.time_column",
        name="bad.csv",
        **CSV,
    ),
    "csv duplicate column": refused(
        b"user_id,item_id,timestamp,item_id\nu,i,5,j\n",
        "more than one column item_id",
        name="bad.csv",
        **CSV,
    ),
    "csv in utf-16": Log(lambda: {"log.csv": csv_lines().encode("utf-16")}, CSV),
    "csv that is parquet": refused(WHOLE, "bad.csv", name="bad.csv", **CSV),
    "csv gzip that is cut": refused(
        gzip.compress(csv_lines().encode())[:-9], "can't be read as csv", name="bad.csv.gz", **CSV
    ),
    "csv named like what it is not": Log(
        lambda: {f"log.csv.{kind}": csv_lines().encode() for kind in ("gz", "xz", "zip")},
        CSV,
        dropped={"duplicate": 2 * len(GOOD)},
    ),
    "csv zip of one file": Log(lambda: {"log.csv.zip": zipped("a.csv")}, CSV),
    "csv zip of two files": refused(
        zipped("a.csv", "b.csv"), "holds 2 files", "give each", name="bad.csv.zip", **CSV
    ),
}

DEEP = 100_000
NULLS = 3 * CHUNK // 1000  # lines of 1000 bytes: a whole chunk of them at least
NINE = ("u9", "i9", T)
JSON_LOGS = {
    "json": jsonl(""),
    "json garbage": jsonl(
        '{"user_id": {"a": [1, {"b": null}]}, "item_id": "i0", "timestamp": 5}\n'
        '[[1], {}]\n"text"\n7\nnull\ntrue\n{broken\n}{\n' + json_line(*NINE, note=[{"a": [[1]]}]),
        NINE,
        bad={"malformed_row": 8},
    ),
    "json nested deeply": jsonl(
        json_line(*NINE)[:-2] + ', "x": ' + "[" * DEEP + "]" * DEEP + "}\n" + "[" * DEEP + "\n",
        bad={"malformed_row": 2},
    ),
    "json cut in its last line": jsonl('{"user_id": "u0", "ite', bad={"malformed_row": 1}),
    "json without its last newline": jsonl(json_line(*NINE)[:-1], NINE),
    "json arrays among objects": jsonl('["u0", "i0", 5]\n', bad={"malformed_row": 1}),
    "json arrays": jsonl('["u", "i", 5]\n' * 9, bad={"malformed_row": 9}),
    "json in one array": refused(
        json.dumps([{"user_id": "u", "item_id": "i", "timestamp": 5}] * 9, indent=1).encode(),
        "one array",
        name="bad.jsonl",
        **JSONL,
    ),
    "json of blank lines": Log(
        lambda: {"a.jsonl": b"\n \n", "b.jsonl": json_lines().encode()}, JSONL
    ),
    "json chunk of nulls": jsonl(
        json_line(*NINE) + ("null" + " " * 995 + "\n") * NULLS, NINE, bad={"malformed_row": NULLS}
    ),
    "json keys that are missing": jsonl(
        '{}\n{"user_id": "u0"}\n{"user_id": "u0", "item_id": "i0"}\n',
        bad={"null_user_id": 1, "null_item_id": 1, "null_time": 1},
    ),
    "json keys that are doubled": jsonl(
        f'{{"user_id": "u0", "user_id": "u1", "item_id": "i0", "timestamp": {T}}}\n',
        bad={"malformed_row": 1},
    ),
    "json objects in one line": jsonl(
        json_line(*NINE)[:-1] + json_line(*NINE), bad={"malformed_row": 1}
    ),
    "json object over lines": jsonl(
        json_line(*NINE).replace(", ", ",\n"), bad={"malformed_row": 3}
    ),
    "json bytes that are no text": jsonl(
        json_line(*NINE).encode().replace(b"u9", b"u\xe9") + b'{"user_id": "\\ud800"}\n',
        bad={"malformed_row": 2},
    ),
    "json bytes that are no text in another key": jsonl(
        json_line(*NINE, note="cafe").encode().replace(b"cafe", b"caf\xe9"), NINE
    ),
    "json byte order mark": jsonl("broken\n", before=b"\xef\xbb\xbf", bad={"malformed_row": 1}),
    "json nan and infinite ids": jsonl(
        "".join(json_line("u0", value, T) for value in (float("nan"), float("inf"), 1.0, 1e300)),
        ("u0", "1", T),
        bad={"malformed_row": 3},
    ),
    "json times that are none": jsonl(
        "".join(json_line("u0", "i0", v) for v in (float("nan"), 5.0, True, [5], {"a": 5}, "soon")),
        ("u0", "i0", 5),
        bad={"unparsable_time": 5},
    ),
    "json integers of any size": jsonl(
        json_line(10**24, 2**63, T) + json_line(7, -7, T),
        (str(10**24), str(2**63), T),
        ("7", "-7", T),
    ),
    "json integer of 5000 digits": jsonl(
        json_line("X", "i0", T).replace('"X"', "9" * 5000), bad={"malformed_row": 1}
    ),
    "json names": jsonl(
        "".join(json_line(name, name, T) for name in NAMES), *((name, name, T) for name in NAMES)
    ),
    "json control characters": jsonl(
        json_line("u\tx", "i0", T).replace("\\t", "\t") + "\x00\n", bad={"malformed_row": 2}
    ),
    "json gzip that is cut": refused(
        gzip.compress(json_lines().encode())[:-9],
        "can't be read as jsonl",
        name="bad.jsonl.gz",
        **JSONL,
    ),
}

TEXT_LOGS: dict[str, Log] = CSV_LOGS | JSON_LOGS
