"""How the numbers of a CSV are written: groups of thousands, a comma before a fraction."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from .names import role_of

GROUPS = (".", ",", "'", " ", "\u00a0", "\u202f")  # between thousands
READ = ("user", "item", "time", "quantity", "rating")  # roles of columns that a night may read


def number_marks(table: pa.Table, separator: str) -> tuple[str | None, str | None]:
    """The signs between thousands and before a fraction; None where there are none, or a point.

    Args:
        table: the rows of a CSV as texts.
        separator: of its fields.
    """
    named = [(role_of(name), table.column(n)) for n, name in enumerate(table.column_names)]
    texts: dict[str, list[pa.ChunkedArray]] = {role: [] for role in READ}
    for role, column in named:
        if role in READ and len(filled := column.drop_null()):
            texts[role].append(filled)
    measures = [*texts["quantity"], *texts["rating"]]
    grouped = separator == "," and any(_are_grouped(e, ",", fraction=r"[.]\d+") for e in measures)
    decimal = "," if not grouped and _any_has_comma([*measures, *texts["time"]]) else None
    for mark in GROUPS:
        is_custom = mark not in ".," or mark == "," == separator or (mark == "." and decimal == ",")
        ids = [*texts["user"], *texts["item"]]
        if mark != decimal and (
            any(_are_grouped(e, mark, fraction="") and _vary(e, mark) for e in ids)
            or (is_custom and any(_are_grouped(e, mark, fraction=r"[.,]\d+") for e in measures))
        ):
            return mark, decimal
    return None, decimal


def _any_has_comma(columns: Iterable[pa.ChunkedArray]) -> bool:
    """Whether all values of a column are numbers, and some have a comma before their fraction."""
    number = r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?\s*$"
    return any(_all_and_some(each, number, r",\d+\s*$") for each in columns)


def _are_grouped(column: pa.ChunkedArray, mark: str, *, fraction: str) -> bool:
    """Whether all values are numbers in groups of three digits, and some have several groups."""
    group = rf"{'[.]' if mark == '.' else mark}\d{{3}}"
    end = rf"({fraction})?\s*$"
    return _all_and_some(
        column, rf"^\s*[+-]?([1-9]\d{{0,2}}({group})+|\d{{1,3}}){end}", rf"\d{group}{end}"
    )


def _vary(column: pa.ChunkedArray, mark: str) -> bool:
    """Whether some values have more groups than others: a code such as 978.100.200 has as many."""
    return len(pc.unique(pc.count_substring(column, mark))) > 1


def _all_and_some(column: pa.ChunkedArray, every: str, some: str) -> bool:
    """Whether all values fit one pattern, and one of them another."""
    if not pc.all(pc.match_substring_regex(column, every)).as_py():
        return False
    return bool(pc.any(pc.match_substring_regex(column, some)).as_py())
