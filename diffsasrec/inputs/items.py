"""What tables say of items besides their ids: a title for people, a category for rules, a boost."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import ItemsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.inputs.side_tables import read_columns

BOOST_KEY = "score.boost_path"
BOOSTS = {"item_id": "id", "boost": "number", "from": "moment?", "until": "moment?"}
# a factor of 10^21: logits of this size still differ by less than lists are compared by
MOST_BOOST = 50.0
FIRST, LAST = -(2**63), 2**63 - 1  # microseconds; no end


def read_items(settings: ItemsConfig) -> pa.Table | None:
    """item_id (canonical), title and category (strings, null where unknown), one row per item.

    None if `items.path` names no table.

    Raises:
        ConfigError: the table can't be read, lacks a column, or has an item twice.
    """
    if settings.path is None:
        return None
    wanted = {"item_id": settings.id_column, "title": settings.title_column}
    wanted |= {"category": settings.category_column}
    kinds = {name: "id" if field == "item_id" else "text" for field, name in wanted.items() if name}
    table = read_columns(settings.path, "items.path", kinds)
    ids = table[settings.id_column]
    if ids.null_count or len(ids.unique()) < len(ids):
        raise ConfigError(
            f"items.path={settings.path}: {settings.id_column} is not one id per row, without "
            "nulls and duplicates; keep one row of each item"
        )
    nothing = pa.nulls(len(table), pa.string())
    columns = [table[name] if name else nothing for name in wanted.values()]
    return pa.table(columns, names=list(wanted))


def items_of(items: pa.Table, item_ids: pa.Array, column: str) -> pa.Array:
    """The title or category of each id, [n] strings, null where there is none."""
    known = items["item_id"].combine_chunks()
    found = pc.index_in(item_ids.cast(pa.string()), value_set=known.cast(pa.string()))
    return items[column].combine_chunks().take(found)


def read_boosts(path: str) -> pa.Table:
    """item_id (canonical), boost, from and until (UTC, null: no end), by item and by from.

    An item may have several rows, for one time after another.

    Raises:
        ConfigError: the table can't be read; a boost is no finite number or too large; a time ends
            before it begins; an item has two boosts at one time.
    """
    table = read_columns(path, BOOST_KEY, BOOSTS)
    begins = table.append_column("begins", pa.array(in_force(table)[0]))
    order = [("item_id", "ascending"), ("begins", "ascending")]
    table = begins.sort_by(order).drop_columns("begins")
    where = f"{BOOST_KEY}={path}"
    if num := table["item_id"].null_count:
        raise ConfigError(f"{where}: {num} rows have no item_id; write it, or remove them")
    boost = table["boost"].to_numpy()
    start, end = in_force(table)

    def refuse(wrong: npt.NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            row = table.slice(int(wrong.argmax()), 1).to_pylist()[0]
            raise ConfigError(f"{where}: item {row['item_id']!r} {what.format(**row)}")

    refuse(
        ~(np.abs(boost) <= MOST_BOOST),  # NaN too
        f"has the boost {{boost}}; write a number from {-MOST_BOOST:g} to {MOST_BOOST:g}, the "
        "logarithm of a factor; score.deny_path takes an item out",
    )
    refuse(end <= start, "is boosted from {from} until {until}; write the later time as until")
    ids = table["item_id"].combine_chunks()
    same = np.asarray(pc.equal(ids[1:], ids[:-1]), dtype=bool)
    # by item and from, so that rows that overlap have neighbours that do
    refuse(
        np.r_[same & (start[1:] < end[:-1]), False][: len(boost)],
        "has two boosts at one time; keep one row, or let one end (until) before the next (from)",
    )
    return table


def in_force(boosts: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """From when, and until before when each row holds, microseconds."""
    start, end = (boosts[name].cast(pa.int64()) for name in ("from", "until"))
    return start.fill_null(FIRST).to_numpy(), end.fill_null(LAST).to_numpy()


def boosts_at(boosts: pa.Table, moment: int) -> pa.Table:
    """item_id and boost of the rows in force at a time, microseconds; each item once."""
    start, end = in_force(boosts)
    held = (start <= moment) & (moment < end)
    return boosts.filter(pa.array(held)).select(["item_id", "boost"])
