"""What items are called, for people."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.inputs.items import items_of, read_items
from diffsasrec.lake.run_dir import RunDir

from .table_copies import items_of_run

Titles = Callable[[list[Any]], list[str]]


def titles_of(config: Config, run: RunDir) -> tuple[Titles, list[str]]:
    """What turns item ids into ids with titles; and warnings."""
    try:
        items = read_items(items_of_run(config, run.storage))
    except ConfigError as error:
        return (lambda ids: [str(i) for i in ids]), [f"WARNING: no titles: {error}"]
    if items is None or config.items.title_column is None:
        return (lambda ids: [str(i) for i in ids]), []

    def titled(ids: list[Any]) -> list[str]:
        found = items_of(items, pa.array(ids), "title").to_pylist() if ids else []
        return [f"{i}  {title}" if title else str(i) for i, title in zip(ids, found, strict=True)]

    return titled, []
