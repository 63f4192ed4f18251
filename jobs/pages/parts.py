"""What the sections of a report are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from jobs.pages.facts import User

MOST_ROWS = 100  # of a table: the rest is in the run's files


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()  # the columns that are numbers
    left_out: str = ""

    @classmethod
    def of(
        cls, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], rest: str = ""
    ) -> "Table":
        """Numbers as people read them; at most MOST_ROWS rows."""
        shown = [[text(cell) for cell in row] for row in rows[:MOST_ROWS]]
        kinds = (int, float, np.integer, np.floating)
        numbers = {n for row in rows for n, cell in enumerate(row) if isinstance(cell, kinds)}
        left = len(rows) - len(shown)
        left_out = f"{left:,} more rows{rest}." if left else ""
        return cls(caption, columns, shown, frozenset(numbers), left_out)


@dataclass(frozen=True)
class Picture:
    title: str
    says: str
    svg: Markup
    table: Table


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    says: str = ""
    tiles: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    users: Sequence[User] = ()


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
