"""What the sections of a report are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ..facts import User

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


@dataclass(frozen=True)
class Notice:
    level: str  # bad: something is wrong; look: it may be
    title: str
    seen: str
    usual: str
    remedy: str
    section: str  # the id of the section with the numbers


def nights(number: int) -> str:
    return f"the last {number} nights" if number != 1 else "the last night"


def median_of(value: str | None, number: int) -> str:
    """What is usual on `number` nights, in words."""
    if value is None:
        return "no earlier night to compare with"
    return f"{value} (median of {nights(number)})"


def share(value: float) -> str:
    """A share in per cent, with as many digits as a small one needs."""
    if 0 < value < 1e-5:
        return "less than 0.001 %"
    digits = 0 if value == 0 else 3 if value < 0.001 else 2 if value < 0.1 else 1
    return f"{value * 100:.{digits}f} %"
