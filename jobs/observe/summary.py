"""Prints the end of a night for people: the metrics, some lists, and where everything is."""

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.lake.chain import newest_by_date, read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.sequences.buckets import bucket_name

from .. import called
from ..night.titles import Titles, titles_of
from ..runs.published_runs import metrics_of

NUM_USERS = 3
EVENTS_SHOWN = 5  # events of a history that are shown
WIDTH = 110  # of a line with titles


def print_summary(config: Config, run: RunDir, words: Sequence[str]) -> None:
    """Prints it; `words`: of the command line, without the date, for the next night."""
    metrics, cited = metrics_of(run.storage)
    print()
    if cited is not None:
        print(f"nothing measured tonight: weights and figures of run {cited['run_id']} of", end=" ")
        print(f"{cited['ds']}, {cited['age_days']} days old")
    print(metrics_table(metrics, k=max(config.evaluate.ks)))
    if (line := warning(metrics, k=max(config.evaluate.ks))) is not None:
        print(line)
    print()
    users = shown_users(run)
    for line in user_lines(users, titles_of(config, run)[0]):
        print(printable(line))
    number = newest_by_date(read_chain(run.lake))[run.ds].number
    user = str(users[0].row["user_id"]) if users else "ID"
    item = str(users[0].items[-1]) if users and config.makes_item_tables else None
    for line in places(run, number=number, user=user, item=item, words=words):
        print(line)


def printable(line: str) -> str:
    """Ids and titles come from a log: nothing in them may steer a terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in line
    )


def places(
    run: RunDir, *, number: int, user: str, words: Sequence[str], item: str | None = None
) -> list[str]:
    """Where everything is, and what to call next.

    Args:
        item: one that tables of items know; None: the night made none.
    """
    published = run.lake.url(f"recommendations/ds={run.ds}")
    query = f"from read_parquet('{published}/part-{run.run_id}-{number:08d}-*.parquet') limit 5"
    show = f"{called('show')} --lake {shlex.quote(run.lake.root)}"
    following = date.fromisoformat(run.ds) + timedelta(days=1)
    return [
        "",
        f"lists    {published}",
        f"run      {run.storage.root}",
        f"report   {run.storage.url('report.html')}",
        f"nights   {run.lake.url('reports/index.html')}",
        f'read     python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"',
        f"a user   {show} --user {shlex.quote(user)}",
        *([] if item is None else [f"an item  {show} --item {shlex.quote(item)}"]),
        f"served   {show} --current",
        f"next     {called('nightly')} {shlex.join([*words, '--date', str(following)])}",
    ]


def warning(metrics: dict[str, Any], *, k: int) -> str | None:
    """A warning where the model is not worth its training."""
    baselines = {name: row[f"NDCG@{k}"] for name, row in metrics["baselines"].items()}
    if not baselines:
        return None
    best = max(baselines, key=lambda name: baselines[name])
    if metrics["model"][f"NDCG@{k}"] > baselines[best]:
        return None
    says = f"WARNING: the model is no better than {best}; on a small log give it more epochs."
    if metrics.get("counter"):
        return f"{says} The lists are by {metrics['counter']['name']} (gate.otherwise)."
    return says


def metrics_table(metrics: dict[str, Any], *, k: int) -> str:
    """The model and its baselines with 95 % intervals, best NDCG first."""
    rows = {"model": metrics["model"], **metrics["baselines"]}
    names = sorted(rows, key=lambda name: -rows[name][f"NDCG@{k}"])
    number = metrics["model"]["n"]
    lines = [f"next basket after the split, {number} holdout users, 95 % intervals"]
    lines.append(
        f"{'':20}"
        + "".join(f"{f'{m}@{k}':>24}" for m in ("NDCG", "HR", "MRR"))
        + f"{'Coverage':>11}"
    )
    for name in names:
        cells = ""
        for metric in ("NDCG", "HR", "MRR"):
            low, high = rows[name][f"{metric}@{k}_ci"]
            cells += f"{rows[name][f'{metric}@{k}']:>9.4f} ({low:.4f}-{high:.4f})".rjust(24)
        lines.append(f"{name:20}{cells}{rows[name][f'Coverage@{k}']:>11.3f}")
    return "\n".join(lines)


@dataclass(frozen=True)
class ShownUser:
    row: dict[str, Any]  # of the published lists
    items: list[Any]  # the last items of the history, oldest first
    times: list[int]  # of these, microseconds


def shown_users(run: RunDir) -> list[ShownUser]:
    """A few users whose lists are no fallback."""
    name = bucket_name(0)
    lists = run.storage.read_table(f"recommendations/{name}")
    lists = lists.filter(pc.not_equal(lists["source"], "popular")).slice(0, NUM_USERS)
    sequences = run.storage.read_table(f"sequences/{name}")
    vocab = run.storage.read_tables("vocab")["item_id"]
    found = []
    for user, row in zip(lists["user_id"], lists.to_pylist(), strict=True):
        history = sequences.filter(pc.equal(sequences["user_id"], user)).to_pylist()[0]
        items = [vocab[index].as_py() for index in history["items"][-EVENTS_SHOWN:]]
        found.append(ShownUser(row, items, history["times"][-EVENTS_SHOWN:]))
    return found


def user_lines(users: Sequence[ShownUser], titles: Titles) -> list[str]:
    """Their lists beside the tail of their histories."""
    lines = []
    for user in users:
        days = [datetime.fromtimestamp(time / 1e6, UTC) for time in user.times]
        pairs = zip(titles(user.items), days, strict=True)
        tail = "; ".join(f"{title} {day:%d %b}" for title, day in pairs)
        shown = "; ".join(titles([item["item_id"] for item in user.row["items"]]))
        who = f"user {user.row['user_id']}: {user.row['history_len']} events"
        lines += [*_wrapped(f"{who}, last {tail}"), *_wrapped(f"{'':>7}next: {shown}")]
    return lines


def _wrapped(line: str) -> list[str]:
    """Lines of a readable width; a blank within a title is one blank."""
    indent = len(line) - len(line.lstrip())
    return textwrap.wrap(
        " ".join(line.split()),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * 13,
        break_long_words=False,
        break_on_hyphens=False,
    )
