"""One user of a published run: history, list, and how each slot of it was filled."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError, DiffsasrecError
from diffsasrec.event_types import EventTypes
from diffsasrec.inputs.items import boosts_at
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import canonical
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.score.rules import boosts_of
from diffsasrec.sequences.buckets import bucket_name, bucket_of

from ..night.replay import KINDS, Remade, remake
from ..night.scoring import night_scoring
from ..night.titles import Titles, titles_of
from .ids import id_of

# scores that differ by less are equal: batches of other sizes add up in other orders
SCORE_TOLERANCE = 1e-4


def user_lines(
    config: Config, run: RunDir, manifest: dict[str, Any], *, user: str, last: int
) -> list[str]:
    """All that is shown of a user, line by line.

    Raises:
        ConfigError: the run knows no such user.
    """
    name, user_id = find_user(run, manifest, user)
    sequences = run.storage.read_table(f"sequences/{name}")
    history = sequences.filter(pc.equal(sequences["user_id"], user_id))
    if not history.num_rows:
        raise ConfigError(
            f"--user {user}: the log of run {run.run_id} of {run.ds} has no such user"
        )
    titles, warnings = titles_of(config, run)
    lines = [f"user {user} in run {run.run_id} of {run.ds}, {run.storage.root}", *warnings, ""]
    types = EventTypes.in_schema(sequences.schema.metadata)
    lines += history_lines(run, history.to_pylist()[0], titles, last, types)
    lists = run.storage.read_table(f"recommendations/{name}")
    shown = lists.filter(pc.equal(lists["user_id"], user_id)).to_pylist()
    if not shown:
        return [*lines, "", why_no_list(config)]
    titles = with_boosts(titles, night_scoring(config, run))
    lines += ["", *list_lines(shown[0], titles), ""]
    try:
        remade = remake(config, run, name, pa.array([user_id.as_py()], user_id.type))
    except DiffsasrecError as error:
        return [*lines, f"WARNING: the steps can't be made again: {error}"]
    return [*lines, *step_lines(config, shown[0], remade, titles)]


def why_no_list(config: Config) -> str:
    reasons = []
    if config.score.users_path is not None:
        reasons.append("not among the users of score.users_path")
    if config.score.active_days is not None:
        reasons.append(f"no event in the last {config.score.active_days:g} days")
    return f"no list: {', or '.join(reasons) or 'the log had no event of it then'}"


def with_boosts(titles: Titles, scoring: Scoring) -> Titles:
    """The same, and behind an item what is added to its logit."""
    try:
        boosts = boosts_of(scoring.rules)
    except ConfigError:  # the table is gone; making the list again says so
        return titles
    if boosts is None:
        return titles
    held = boosts_at(boosts, scoring.query_time)
    of_item = dict(
        zip(map(str, held["item_id"].to_pylist()), held["boost"].to_pylist(), strict=True)
    )

    def told(ids: list[Any]) -> list[str]:
        added = [of_item.get(str(item), 0.0) for item in ids]
        named = zip(titles(ids), added, strict=True)
        return [f"{title}  (boost {boost:+g})" if boost else title for title, boost in named]

    return told


def find_user(run: RunDir, manifest: dict[str, Any], user: str) -> tuple[str, pa.Scalar]:
    """The file of a user's bucket, and the id in the type of the log."""
    num = sum(file["path"].startswith("sequences/") for file in manifest["files"])
    user_type = run.storage.read_table(f"sequences/{bucket_name(0)}", ["user_id"])["user_id"].type
    user_id = id_of(user, user_type, option="user")
    (bucket,) = bucket_of(canonical(pa.array([user_id.as_py()], user_type)), num)
    return bucket_name(int(bucket)), user_id


def history_lines(
    run: RunDir, row: dict[str, Any], titles: Titles, last: int, types: EventTypes | None
) -> list[str]:
    number = len(row["items"])
    known = run.storage.read_tables("vocab", ["item_id"])["item_id"].combine_chunks()
    start = max(number - last, 0)
    ids = known.take(pa.array(row["items"][start:], pa.int32())).to_pylist()
    lines = [f"history: {number} events, {row['num_before']} of them before the split"]
    lines += [f"  ... {start} earlier ones"] if start else []
    of_type = [""] * number if types is None else [f"  ({types.names[c]})" for c in row["types"]]
    for time, item, of in zip(row["times"][start:], titles(ids), of_type[start:], strict=True):
        lines.append(f"  {datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M:%S}  {item}{of}")
    return lines


def list_lines(row: dict[str, Any], titles: Titles) -> list[str]:
    made = {"model": "by the model", "counter": "by a counter, since the model was worse"}.get(
        row["source"], "the fallback: what is popular of late"
    )
    lines = [
        f"list: {made}, from {row['history_len']} events, model version {row['model_version']}",
        f"  {'rank':>4}  {'score':>8}  {'share':>7}  item",
    ]
    items = row["items"]
    for item, title in zip(items, titles([i["item_id"] for i in items]), strict=True):
        share = np.exp(item["score"])
        lines.append(f"  {item['rank']:>4}  {item['score']:>8.4f}  {share:>7.4f}  {title}")
    return lines


def step_lines(config: Config, shown: dict[str, Any], remade: Remade, titles: Titles) -> list[str]:
    """How the slots were filled, and whether that gives the published list."""
    lines = []
    if remade.trace.steps:
        lines.append(f"how its slots were filled (score.decode: {config.score.decode})")
    row = remade.rows[0] if remade.rows else None
    made = [] if row is None else row["items"]
    ranks = {item["item_id"]: item["rank"] for item in made}
    for number, step in enumerate(remade.trace.steps, 1):
        lines.append(f"  step {number}, {KINDS[step.kind]}")
        ids = remade.item_ids.take(pa.array(step.items_F.tolist())).to_pylist()
        filled = zip(
            step.confidence_F.tolist(), step.slots_F.tolist(), ids, titles(ids), strict=True
        )
        for confidence, slot, item, title in sorted(filled, key=lambda row: (-row[0], row[1])):
            where = f"slot {slot + 1:>3}  confidence {confidence:.4f}  rank {ranks[item]:>3}"
            lines.append(f"    {where}  {title}")
    if row is not None and is_same(shown, row):
        same = f"the same list, scores within {SCORE_TOLERANCE}"
        return [*lines, f"made again from the run directory: {same}"]
    lines.append(
        "WARNING: made again from the run directory, the list is another one: the code, a table of "
        "rules or a library has changed since, or two items are nearly equal. The list now:"
    )
    return [*lines, *(list_lines(row, titles) if row else ["  no list"])]


def is_same(shown: dict[str, Any], made: dict[str, Any]) -> bool:
    """The same items in the same order, by the same source, with scores that are close."""
    before, now = shown["items"], made["items"]
    return (
        shown["source"] == made["source"]
        and [i["item_id"] for i in before] == [i["item_id"] for i in now]
        and all(
            abs(i["score"] - j["score"]) <= SCORE_TOLERANCE
            for i, j in zip(before, now, strict=True)
        )
    )
