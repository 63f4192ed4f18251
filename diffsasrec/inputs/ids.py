"""Ids of any type as they come, in the canonical type of the log."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.inputs.log_types import id_kind

MAX_INT = 2**63 - 1
_EXACT = 2**53  # floats are exact integers up to here


def read_ids(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The ids in the canonical type `target`, and where a value does not fit it."""
    source = id_kind(column.type)
    assert source is not None, column.type
    wrong = np.zeros(len(column), dtype=bool)
    if pa.types.is_null(column.type):
        return column.cast(target), wrong
    if pa.types.is_floating(column.type):
        column, wrong = _integral(column)
    elif pa.types.is_decimal(column.type):
        column = column.cast(pa.string())
        if target == pa.string():  # of any number of digits
            return column, wrong
        column, wrong = parse_integers(column)
    column = column.cast(source)
    if source == pa.string() and pa.types.is_integer(target):
        return parse_integers(column)
    if source == pa.uint64() and target == pa.int64():
        return _within(column, pc.greater(column, pa.scalar(MAX_INT, pa.uint64())), target)
    if source == pa.int64() and target == pa.uint64():
        return _within(column, pc.less(column, 0), target)
    return column.cast(target), wrong


def _within(
    column: pa.Array, is_outside: pa.Array, target: pa.DataType
) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    wrong = np.asarray(is_outside.fill_null(False))
    return pc.if_else(pa.array(wrong), pa.scalar(None, column.type), column).cast(target), wrong


def _integral(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Floats as integers; null and flagged where one is none; NaN is a missing value."""
    values = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):
        fits = (np.abs(values) <= _EXACT) & (np.trunc(values) == values)
    integers = np.where(fits, values, 0).astype(np.int64)
    return pa.array(integers, mask=~fits), ~fits & ~missing


def parse_integers(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Decimal int64 numbers; null and flagged if a string is not one.

    Blanks around a number and zeros behind its point are no part of it: " 7" and 7.0 are 7.
    """
    parsed, wrong = _plain_integers(column)
    if not wrong.any():
        return parsed, wrong
    rest = column.filter(pa.array(wrong))
    rest = pc.replace_substring_regex(rest, r"^[ \t]*([+-]?[0-9]+)(\.0*)?[ \t]*$", r"\1")
    found, still_wrong = _plain_integers(rest)
    parsed = pc.replace_with_mask(parsed, pa.array(wrong), found)
    wrong[wrong] = still_wrong
    return parsed, wrong


def _plain_integers(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    short = pc.match_substring_regex(column, r"^[+-]?[0-9]{1,18}$")
    # 19 digits may or may not fit: strings of equal length compare as their numbers do
    long = pc.and_(
        pc.match_substring_regex(column, r"^[0-9]{19}$"), pc.less_equal(column, str(MAX_INT))
    )
    lowest = pc.and_(
        pc.match_substring_regex(column, r"^-[0-9]{19}$"), pc.less_equal(column, str(-MAX_INT - 1))
    )
    is_number = pc.or_(pc.or_(short, long), lowest).fill_null(False)
    digits = pc.replace_substring_regex(column, r"^\+", "")
    parsed = pc.if_else(is_number, digits, pa.scalar(None, pa.string())).cast(pa.int64())
    return parsed, np.array(pc.and_(pc.invert(is_number), column.is_valid()))


def number_texts(column: pa.ChunkedArray) -> str:
    """What some texts are: floats (integers, some written as 17850.0), integers, text, nothing.

    So does a program write integers that has a column of floats for them, because one is missing.
    """
    filled = column.drop_null()
    if not len(filled):
        return "nothing"
    if not pc.all(pc.match_substring_regex(filled, r"^[+-]?[0-9]+(\.0+)?$")).as_py():
        return "text"
    return "floats" if pc.any(pc.match_substring(filled, ".")).as_py() else "integers"


def type_names(column: pa.ChunkedArray) -> pa.Array:
    """The types of events as texts, [n]; null where one is missing or empty; 1.0 is 1."""
    if pa.types.is_floating(column.type):
        whole, wrong = _integral(column.combine_chunks())
        column = pa.chunked_array([whole.cast(pa.string())]) if not wrong.any() else column
    # a dictionary may hold what is no UTF-8: a cast of the plain values would not look
    texts = column.cast(pa.string()).combine_chunks()
    return pc.if_else(pc.equal(texts, ""), None, texts)


def without_point(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """17850.0 as 17850; other texts as they are."""
    if not pc.any(pc.match_substring(column, ".")).as_py():  # as in most chunks; much faster
        return column
    return pc.replace_substring_regex(column, r"^([+-]?[0-9]+)\.0+$", r"\1")
