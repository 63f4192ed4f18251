"""What is known of items besides their ids: a title for people, a category for rules."""

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import ItemsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.inputs.side_tables import read_columns


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
