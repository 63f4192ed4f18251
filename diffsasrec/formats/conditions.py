"""Which rows fulfil the conditions of `events.where`.

A null fulfils none but `is null`. A number is compared with texts as the numbers that they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.where import Condition, Value
from diffsasrec.errors import ConfigError
from diffsasrec.schema import canonical_type

NUMBER = r"^[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?[ \t]*$"
NUMBERS = (int, float)
_ORDER = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}


def check_condition(condition: Condition, column_type: pa.DataType, path: str) -> None:
    """Checks that a condition fits the type of its column.

    Raises:
        ConfigError: names the condition and the type.
    """
    is_text = canonical_type(column_type) == pa.string() or pa.types.is_null(column_type)
    if condition.operator.startswith("is") or is_text:
        return
    is_number = pa.types.is_integer(column_type) or pa.types.is_floating(column_type)
    if is_number or pa.types.is_decimal(column_type):
        if all(isinstance(value, NUMBERS) for value in condition.values):
            return
        takes = "numbers"
    elif pa.types.is_boolean(column_type):
        if {str(value).lower() for value in condition.values} <= {"true", "false"}:
            return
        takes = "true or false"
    else:
        takes = "only is null and is not null"
    raise ConfigError(
        f"events.where: column {condition.column} is {column_type} in {path}, which takes {takes}, "
        f"and not {condition.operator} {list(condition.values)}; correct the condition"
    )


def fulfilled(
    conditions: Sequence[Condition], columns: Mapping[str, pa.ChunkedArray]
) -> pa.ChunkedArray:
    """Which rows fulfil all conditions; `columns`: by the names of the conditions."""
    masks = [_fulfilled(each, columns[each.column]) for each in conditions]
    mask = masks[0]
    for other in masks[1:]:
        mask = pc.and_(mask, other)
    return mask


def _fulfilled(condition: Condition, column: pa.ChunkedArray) -> pa.ChunkedArray:
    name, values = condition.operator, condition.values
    if name == "is null":
        return column.is_null(nan_is_null=pa.types.is_floating(column.type))
    if name == "is not null":
        return pc.invert(column.is_null(nan_is_null=pa.types.is_floating(column.type)))
    texts, numbers = _as_texts(column), None
    if any(isinstance(value, NUMBERS) for value in values):
        numbers = _as_numbers(column, texts, values)
    if name in _ORDER:
        found = _ORDER[name](numbers if isinstance(values[0], NUMBERS) else texts, values[0])
        return found.fill_null(False)
    known = pa.array([v for v in values if isinstance(v, str)], pa.string())
    found = pc.is_in(texts, value_set=known)
    if numbers is not None:
        some = pa.array([v for v in values if isinstance(v, NUMBERS)], numbers.type)
        found = pc.or_(found, pc.is_in(numbers, value_set=some))
    if name in ("!=", "not in"):
        return pc.and_(pc.invert(found), column.is_valid())
    return found


def _as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _as_numbers(
    column: pa.ChunkedArray, texts: pa.ChunkedArray, values: Sequence[Value]
) -> pa.ChunkedArray:
    """As integers where all are, else as floats; null where a text is no number."""
    is_whole = not any(isinstance(value, float) for value in values)
    if is_whole and canonical_type(column.type) == pa.int64():
        return column.cast(pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.cast(pa.float64(), safe=False)
    is_number = pc.match_substring_regex(texts, NUMBER)
    return pc.if_else(is_number, pc.utf8_trim(texts, " \t+"), None).cast(pa.float64())


def may_be_fulfilled(condition: Condition, least: Any, largest: Any) -> bool:
    """Whether a row of some may fulfil a condition, by the least and largest of their values.

    Args:
        least, largest: as statistics of Parquet have them; of a type that is not compared with
            the values of the condition, they say nothing.
    """
    kinds = (int, float) if isinstance(least, (int, float)) else (str,)
    values = [value for value in condition.values if isinstance(value, kinds)]
    if isinstance(least, bool) or len(values) < len(condition.values) or not values:
        return True
    if not isinstance(least, kinds) or not isinstance(largest, kinds):
        return True
    return _may_be(condition.operator, values, least, largest)


def _may_be(name: str, values: Sequence[Value], least: Any, largest: Any) -> bool:
    if name in ("=", "in"):
        return any(least <= value <= largest for value in values)
    if name in ("<", "<="):
        return bool(least < values[0] or (name == "<=" and least == values[0]))
    if name in (">", ">="):
        return bool(largest > values[0] or (name == ">=" and largest == values[0]))
    return True
