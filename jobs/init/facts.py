"""What the rows of a log say beside who, what and when: repeats, kinds of events, values, sizes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import Column
from .sniff.names import name_score

FEW_TYPES = 30
MOST_BAD = 0.01  # the default of events.max_bad_fraction
COMMON = 0.01  # of all events: rarer targets leave too little to predict and to measure
LEAST_WORTH = 0.1  # of a view, and of what is not known
_BOUGHT = "purchase purchased buy bought transaction order checkout"
_WISHED = "cart addtocart fav favorite favourite wishlist like"
_WORTH = {name: 1.0 for name in _BOUGHT.split()} | {name: 0.5 for name in _WISHED.split()}
KNOWN_TYPES = frozenset(
    [
        *("view", "views", "pageview", "pv", "detail", "click", "clicks", "clickout", "cart"),
        *("addtocart", "purchase", "purchased", "buy", "bought", "transaction", "order"),
        *("checkout", "fav", "favorite", "favourite", "wishlist", "like", "play", "listen"),
        *("watch", "impression", "remove", "removefromcart", "refund", "return", "share"),
        *("rate", "search", "start", "complete", "skip"),
    ]
)
NO_INTEREST = ("impression", "remove", "refund", "return", "dislike", "skip", "delete")


@dataclass(frozen=True)
class Types:
    """A column with kinds of events, and how many rows are of each."""

    name: str
    counts: dict[str, int]  # the commonest first
    nulls: int = 0  # rows without one

    @property
    def rows(self) -> int:
        return sum(self.counts.values()) + self.nulls

    @property
    def are_known(self) -> bool:
        """Whether a night may ask for them: a row without one is bad."""
        return self.nulls <= MOST_BAD * self.rows

    def without_interest(self) -> list[str]:
        return [t for t in self.counts if any(word in t.lower() for word in NO_INTEREST)]

    def settings(self) -> dict[str, dict[str, Any]]:
        """What events.types may say of them; nothing where none of them is clearly the target."""
        names = [name for name in self.counts if name not in self.without_interest()]
        worth = {name: _WORTH.get(_plain(name), LEAST_WORTH) for name in names}
        if 1.0 not in worth.values() or len(worth) < 2:
            return {}
        order = sorted(names, key=lambda name: (-worth[name], name))
        return {
            name: {"weight": worth[name], "target": worth[name] == 1.0, "seen": worth[name] == 1.0}
            for name in order
        }

    def are_common(self, names: Sequence[str]) -> bool:
        return sum(self.counts[name] for name in names) >= COMMON * sum(self.counts.values())


def find_types(columns: Sequence[Column]) -> Types | None:
    """The column with the kind of each event; None where there is none, or only one kind."""
    best, most = None, 0.0
    for column in columns:
        if not 2 <= column.distinct <= FEW_TYPES:
            continue
        counted = column.values.drop_null().cast(pa.string()).value_counts().to_pylist()
        pairs = [(pair["values"], pair["counts"]) for pair in counted]
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        known = sum(n for text, n in pairs if _plain(text) in KNOWN_TYPES)
        named = name_score(column.name, "type") / 10
        score = named + 2 * known / max(sum(n for _, n in pairs), 1)
        if score > most and score >= 0.9:
            best, most = Types(column.name, dict(pairs), column.nulls), score
    return best


def in_condition(name: str) -> str:
    """The name of a column as a condition has it."""
    return f"`{name}`" if re.search(r"[\s<>=!]", name) else name


def as_text(value: str) -> str:
    """A text as a condition has it."""
    return value if re.fullmatch(r"[^\W\d][\w ./-]*", value) else f'"{value}"'


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalpha())


def find_value(columns: Sequence[Column], role: str) -> tuple[Column, pa.ChunkedArray] | None:
    """The column of a role with numbers (quantity, rating), and these; None without one."""
    for column in sorted(columns, key=lambda c: -name_score(c.name, role)):
        if name_score(column.name, role) <= 0:
            return None
        if (numbers := numbers_of(column.values)) is not None:
            return column, numbers
    return None


def numbers_of(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The values as numbers; None where some are none."""
    try:
        return values.cast(pa.string()).cast(pa.float64())
    except pa.ArrowException:
        return None


def count_repeats(
    users: pa.ChunkedArray, items: pa.ChunkedArray, days: np.ndarray
) -> tuple[int, int]:
    """Of the items of each user on each day, how many the user had on an earlier day, too.

    A user comes back to an item within a visit in every log: only another day counts.

    Args:
        days: of each row, since 1970.

    Returns:
        The repeats, and the number of pairs of user, item and day.
    """
    table = pa.table({"user": users, "item": items, "day": pa.array(days)}).drop_null()
    by_day = table.group_by(["user", "item", "day"]).aggregate([])
    pairs = by_day.group_by(["user", "item"]).aggregate([])
    return by_day.num_rows - pairs.num_rows, by_day.num_rows


def rare_items(items: pa.ChunkedArray, floor: int) -> tuple[int, int]:
    """How many items have fewer rows than a floor, and how many items there are."""
    counts = pc.value_counts(items.drop_null()).field("counts").to_numpy()
    return int((counts < floor).sum()), len(counts)
