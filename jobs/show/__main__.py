"""Shows what a lake holds: a user's list and how it was made, an item, or what is published now.

    python -m jobs.show --lake s3://bucket/recommender --user 17
    python -m jobs.show --lake s3://bucket/recommender --item 995242
    python -m jobs.show --lake s3://bucket/recommender --current
    python -m jobs.show --lake s3://bucket/recommender --metrics

Everything is read from the lake and made in this process; no Ray is started, nothing is written.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from ..runner.command import run_command
    from .arguments import parse_show

    run_command(__spec__, parse_show)

import argparse
import json
import logging
import re
import signal
import sys
from datetime import UTC, datetime
from typing import Any

from diffsasrec.errors import ConfigError, DiffsasrecError, at_the_start
from diffsasrec.evaluate.versus import Versus
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import CHAIN, read_chain
from diffsasrec.lake.run_dir import run_path
from diffsasrec.lake.stages import METRICS

from ..observe.summary import metrics_table, printable, warning
from ..runner.lake_mark import open_lake, require_lake
from ..runs.published_runs import config_of, metrics_of, open_published
from ..runs.run_dates import is_future
from ..runs.standing import way_out

LAST_ENTRIES = 5
DATE_FOLDER = re.compile(r"ds=\d{4}-\d\d-\d\d")


def main(arguments: argparse.Namespace) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends quietly behind `| head`
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        lake = open_lake(arguments.lake)
        require_lake(lake)
        if arguments.metrics:
            sys.stdout.write(newest_metrics(lake))
            return
        lines = current_lines(lake) if arguments.current else lines_of_one(lake, arguments)
    except DiffsasrecError as raised:
        error = at_the_start(raised)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    for line in lines:
        print(printable(line))


def lines_of_one(lake: Storage, arguments: argparse.Namespace) -> list[str]:
    """Of a user or an item of a published run."""
    run, manifest = open_published(lake, arguments.date, arguments.run_id)
    config = config_of(manifest)
    if arguments.item is not None:
        from .item import item_lines

        return item_lines(config, run, manifest, item=arguments.item)
    from .user import user_lines  # with torch and Ray, which take seconds to import

    return user_lines(config, run, manifest, user=arguments.user, last=arguments.last)


def current_lines(lake: Storage) -> list[str]:
    """What is published now and since when, with its metrics, and the last entries."""
    chain = read_chain(lake)
    if not chain:
        return [f"nothing is published in {lake.root}"]
    written = {info.path: info.modified for info in lake.list(CHAIN)}
    current = chain[-1].current
    since = chain[-1]
    for entry in reversed(chain):
        if entry.current != current:
            break
        since = entry
    run = lake.sub(run_path(**current))
    lines = [
        f"current   {current['ds']}, run {current['run_id']}, by entry {since.number} of "
        f"{len(chain)} since {moment(written[since.path])}",
        f"run       {run.root}",
    ]
    if is_future(current["ds"]):
        way = way_out(chain, "CONFIG")
        lines.append(f"WARNING   the run date {current['ds']} lies in the future. {way}.")
    lines += _run_lines(run)
    lines += ["", "last entries"]
    seen = {(e.ds, e.run_id): e.number for e in reversed(chain)}
    for entry in chain[: -LAST_ENTRIES - 1 : -1]:
        is_again = seen[entry.ds, entry.run_id] != entry.number
        lines.append(
            f"{entry.number:>6}  {moment(written[entry.path])}  ds={entry.ds}  {entry.run_id}"
            + (f"  rollback to entry {seen[entry.ds, entry.run_id]}" if is_again else "")
        )
    return lines


def _run_lines(run: Storage) -> list[str]:
    try:
        manifest = json.loads(run.read_bytes("manifest.json"))
        metrics, cited = metrics_of(run)
    except FileNotFoundError:
        return [f"          {run.root} is gone"]
    trained_before = manifest["trained_before"]["checkpoint"]
    lines = [
        *_who_made(manifest, metrics),
        f"model     {manifest['model_version']}, trained on what was before "
        f"{moment(trained_before / 1e6)}",
    ]
    if "cost" in manifest:
        total = manifest["cost"]["total"]
        money = "" if total["money"] is None else f", {total['money']:.2f} in money"
        lines.append(
            f"cost      {total['cpu_hours']:.2f} CPU hours, {total['gpu_hours']:.2f} GPU hours"
            f"{money}"
        )
    if cited is not None:
        lines.append(
            f"figures   of run {cited['run_id']} of {cited['ds']}, whose weights serve, "
            f"{cited['age_days']} days old"
        )
    k = max(manifest["config"]["evaluate"]["ks"])
    lines += ["", *metrics_table(metrics, k=k).splitlines()]
    return lines if (line := warning(metrics, k=k)) is None else [*lines, line]


def _who_made(manifest: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    """How many lists are by what, and why not by the model."""
    counts, counter = manifest["counts"]["score"], manifest.get("counter")
    rows = sum(f["rows"] for f in manifest["files"] if f["path"].startswith("recommendations/"))
    made = f"{counts.get('model', 0)} by the model"
    if counter is not None:
        made = f"{counts.get('counter', 0)} by the counter {counter['name']}"
    lines = [
        f"lists     {rows}: {made}, {counts.get('popular', 0)} fallback, "
        f"{counts.get('short_lists', 0)} short"
    ]
    if "boosted_items" in counts:
        of_all = counts.get("boosted_places", 0) / max(counts.get("places", 0), 1)
        lines.append(
            f"boosts    {counts['boosted_items']} items, with {of_all:.1%} of the places of lists"
        )
    if "asked" in counts:
        lines.append(
            f"users     {counts['asked']} asked for, {counts['asked_unknown']} of them unknown to "
            "the log"
        )
    if counter is not None and (versus := metrics.get("versus")) is not None:
        lines.append(f"why       {Versus.from_json(versus).in_words()}; gate.otherwise")
    return lines


def moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def newest_metrics(lake: Storage) -> str:
    """metrics.prom of the newest run date that has any; the one that was written last.

    A run date in the future comes last: else it would hide every night until then.

    Raises:
        ConfigError: there is none.
    """
    folders = [name for name in lake.directories("runs") if DATE_FOLDER.fullmatch(name)]
    folders.sort(key=lambda name: (not is_future(name[3:]), name), reverse=True)
    for run_date in folders:
        pages = [i for i in lake.list(f"runs/{run_date}") if i.path.endswith(f"/{METRICS}")]
        if pages:
            newest = max(pages, key=lambda info: info.modified)
            return lake.read_bytes(newest.path).decode()
    raise ConfigError(f"--lake {lake.root}: no night has left a {METRICS} there")
