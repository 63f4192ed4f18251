"""What a sample of a log says about the lists: which items, how many, how they are made."""

import numpy as np

from diffsasrec.times import DAY

from .facts import count_repeats, rare_items
from .guess import SHORT, Entry, Log, of

FLOOR = 5  # of an item's events, as in jobs/nightly.yaml
REPEATED = 0.05  # of the items of a user and day: above it, items are taken again
_DECODE = Entry(
    "score.decode",
    "multi",
    ("how lists are made: in two steps, the second for items that lists rarely show",),
    choices=(("single", "at once: faster, and the lists of all users have fewer items"),),
)


def other_entries(log: Log) -> list[Entry]:
    """The keys of `split` and `score`."""
    k = Entry("score.k", 10, ("items per list",))
    return [*_floor(log), k, _DECODE, _filter_seen(log)]


def _floor(log: Log) -> list[Entry]:
    rare, items = rare_items(log.item.column.values, FLOOR)
    left = items - rare
    if not rare or left < 10 * FLOOR:
        return []
    why = f"{of(rare, items)} items have fewer than {FLOOR} events in the sample"
    return [Entry("split.min_item_count", FLOOR, (why, "rarer items are not recommended"))]


def _filter_seen(log: Log) -> Entry:
    days = np.where(np.isnan(log.micros), -1, log.micros) // DAY
    repeats, pairs = count_repeats(log.user.column.values, log.item.column.values, days)
    why = [f"{of(repeats, pairs)} pairs of user, item and day repeat the pair of an earlier day"]
    is_repeated = repeats > REPEATED * pairs
    if not log.sample.is_whole:
        why.append("the whole log repeats more than a sample of it")
    what = "items are taken again" if is_repeated else "items are hardly taken twice"
    if log.is_short() and not is_repeated:
        what = f"that is too early to tell: the rows that were read lie within {SHORT} days"
    why.append(f"{what}; true never recommends what the user has touched, false may")
    return Entry(
        "score.filter_seen", not is_repeated, tuple(why), is_set=is_repeated or not log.is_short()
    )
