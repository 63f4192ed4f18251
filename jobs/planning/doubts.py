"""What looks wrong in a log and a config to a dry run, although no stage refuses it."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.times import DAY, iso, microseconds

log = logging.getLogger("jobs")

LONG_AGO = 7  # days before the run date: the split, trends and lists are of another time
FEW_USERS = 20  # with fewer, nothing can be measured
MANY_DUPLICATES = 0.1  # share of the events, as in a log that was written twice


def doubts(
    config: Config,
    *,
    users: list[pa.Array],
    items: list[pa.Array],
    times: list[np.ndarray],
    is_whole: bool,
    ds: str,
) -> list[str]:
    """Each in words, with its remedy.

    Args:
        users, items, times: the good rows of a sample, in chunks; times in microseconds.
        is_whole: every row of the log is in it.
    """
    moments = np.concatenate(times)
    early = pa.array(moments < microseconds(ds))
    table = pa.table(
        {
            "user": pa.chunked_array(users).filter(early),
            "item": pa.chunked_array(items).filter(early),
            "time": moments[early.to_numpy(zero_copy_only=False)],
        }
    )
    if not table.num_rows:
        return []
    of_size = _of_size(config, table) if is_whole else []
    return of_size + _of_rows(config, table, ds)


def _of_size(config: Config, table: pa.Table) -> list[str]:
    found = []
    counts = pc.value_counts(table["item"]).field("counts").to_numpy()
    num_items = int((counts >= config.split.min_item_count).sum())
    if config.score.k > num_items:
        found.append(
            f"score.k={config.score.k} is above the {num_items} items of the log: lists stay "
            "shorter; lower it, or lower split.min_item_count"
        )
    num_users = pc.count_distinct(table["user"]).as_py()
    if num_users < FEW_USERS:
        found.append(
            f"the log has {num_users} users: too few to train on or to measure anything; check "
            f"events.user_column={config.events.user_column}"
        )
    return found


def _of_rows(config: Config, table: pa.Table, ds: str) -> list[str]:
    found = []
    newest = pc.max(table["time"]).as_py()
    days = (microseconds(ds) - newest) // DAY
    if days >= LONG_AGO:
        found.append(
            f"the newest event that was read is of {iso(newest)[:10]}, {days} days before the run "
            f"date {ds}: has the log ended? Check --date and {config.events.source}"
        )
    num_distinct = table.group_by(["user", "item", "time"]).aggregate([]).num_rows
    share = 1 - num_distinct / table.num_rows
    if share > MANY_DUPLICATES:
        found.append(
            f"{100 * share:.0f} % of the events are there twice or more (same user, item and "
            "time), and are dropped: was a part of the log written again?"
        )
    return found


def warn(text: str) -> None:
    """Writes a line that stands out in the log."""
    log.warning("WARNING: %s", text)
