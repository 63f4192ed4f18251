"""How often a night ends right while its object store fails.

A proxy before a real S3 server breaks requests: a share of all of them, or from some moment on
every one. With a share the night must publish, byte for byte, what an undisturbed one does. With
all it must end within ten minutes, say which operation on which URL failed, and leave what is
published as it is.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from diffsasrec.files.storage import Storage, sha256

from .rig.nights import DATE, Nights, tiny_config, toy_log
from .rig.proxy import KINDS, Proxy, run_proxy, seeded
from .rig.s3_server import BUCKET, aws_variables, run_s3

LAKE = f"s3://{BUCKET}/prod"
LATER = "2024-03-02"
NIGHT_SECONDS = 600.0  # a night that the store fails ends long before
NAMED = re.compile(
    r"(reading|writing|copying to|listing|deleting) s3://\S+ failed after \d+ attempts: .+"
)


def cells(*, short: bool) -> list[dict[str, Any]]:
    """At a rate of 1 `after` is the line of the log from which on every request fails."""
    mixed = {"kinds": list(KINDS), "rate": 0.05, "after": ""}
    moments = ("", "prepare: reading", "pretrain: step")
    dead = [{**mixed, "rate": 1.0, "after": moment} for moment in moments]
    if short:
        return [mixed, dead[0]]
    return [
        {**mixed, "rate": 0.01},
        mixed,
        *dead,
        *({**mixed, "kinds": [kind]} for kind in KINDS if kind not in ("reset", "error")),
    ]


def measure(cell: dict[str, Any], place: Path) -> dict[str, Any]:
    """Compares with the undisturbed night, which the first cell runs for all."""
    calm = _calm_night(place)
    with (
        run_s3(_new(place / "s3")) as endpoint,
        aws_variables(endpoint),
        run_proxy(endpoint, seeded(0)) as proxy,
    ):
        _upload_log()
        nights = Nights(place, {"AWS_ENDPOINT_URL": proxy.endpoint})
        if cell["rate"] == 1:
            result = _measure_dead(cell, nights, proxy)
        else:
            result = _measure_rate(cell, nights, proxy, calm)
    return {**result, "injected": dict(sorted(proxy.injected.items()))}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    injected = sum((Counter(result["injected"]) for result in results), Counter[str]())
    added = [result["added_seconds"] for result in results if "added_seconds" in result]
    return {
        "faults": injected.total(),
        **{f"faults_{kind}": number for kind, number in sorted(injected.items())},
        "median_added_seconds": round(median(added), 1) if added else None,
    }


def _new(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _upload_log() -> None:
    raw = Storage.of(f"s3://{BUCKET}/raw")
    raw.write_bytes("events.parquet", toy_log().to_parquet(index=False))


def _published() -> dict[str, bytes]:
    """What readers see, and the chain."""
    lake = Storage.of(LAKE)
    return {info.path: lake.read_bytes(info.path) for info in lake.list("recommendations")}


def _parts(files: dict[str, bytes]) -> dict[str, str]:
    return {path: sha256(data) for path, data in files.items() if path.endswith(".parquet")}


def _calm_night(place: Path) -> dict[str, Any]:
    """The undisturbed night, through a harmless proxy: its parts and seconds; one for all cells."""
    known = place.parent / "store-calm.json"
    if not known.exists():
        with (
            run_s3(_new(place / "s3-calm")) as endpoint,
            aws_variables(endpoint),
            run_proxy(endpoint, seeded(0)) as proxy,
        ):
            _upload_log()
            nights = Nights(place, {"AWS_ENDPOINT_URL": proxy.endpoint})
            code, _, log, seconds = _run(nights, DATE)
            assert code == 0, log
            parts = _parts(_published())
        known.write_text(json.dumps({"parts": parts, "seconds": seconds}))
    calm: dict[str, Any] = json.loads(known.read_text())
    return calm


def _run(
    nights: Nights, date: str, meanwhile: Callable[[Any], None] = lambda night: None
) -> tuple[int, dict[str, Any], str, float]:
    started = time.monotonic()
    night = nights.start(tiny_config(f"s3://{BUCKET}/raw/", LAKE), "--run-id", "night", date=date)
    meanwhile(night)
    code, last, log = night.finish(timeout=3600)
    return code, last, log, round(time.monotonic() - started, 1)


def _measure_rate(
    cell: dict[str, Any], nights: Nights, proxy: Proxy, calm: dict[str, Any]
) -> dict[str, Any]:
    proxy.plan = seeded(cell["rate"], cell["kinds"])
    code, last, _, seconds = _run(nights, DATE)
    return {
        "right": code == 0 and _parts(_published()) == calm["parts"],
        "code": code,
        "error": last.get("error"),
        "requests": proxy.num_requests,
        "seconds": seconds,
        "added_seconds": round(seconds - calm["seconds"], 1),
    }


def _measure_dead(cell: dict[str, Any], nights: Nights, proxy: Proxy) -> dict[str, Any]:
    # a publication from before; its run directory plays no part
    lake = Storage.of(LAKE)
    entry = {"number": 1, "attempt": "before", "ds": DATE, "run_id": "before", "previous": None}
    entry |= {"manifest_sha256": "0" * 64, "current": {"ds": DATE, "run_id": "before"}}
    lake.write_bytes("recommendations/_published/00000001.json", json.dumps(entry).encode())
    lake.write_bytes(f"recommendations/ds={DATE}/part-before-00000.parquet", b"published before")
    lake.write_bytes(f"recommendations/ds={DATE}/_SUCCESS", b'{"run_id": "before"}')
    before, failing_since = _published(), time.monotonic()

    def fail(night: Any) -> None:
        nonlocal failing_since
        if cell["after"]:
            night.wait_for_line(cell["after"])
        proxy.plan, failing_since = seeded(1.0, cell["kinds"]), time.monotonic()

    code, last, _, seconds = _run(nights, LATER, fail)
    ended = round(time.monotonic() - failing_since, 1)
    error = last.get("error") or ""
    is_named = bool(NAMED.match(error))
    return {
        "right": code == 5 and is_named and ended < NIGHT_SECONDS and _published() == before,
        "code": code,
        "error": error,
        "seconds": seconds,
        "seconds_to_the_end": ended,
    }
