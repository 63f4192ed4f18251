"""Arrow types of the tables that other programs read, and the canonical form of ids.

Ids keep the type of the log wherever they are stored. Inside a computation they are canonical
(signed integers int64, unsigned uint64, strings as string), so that a hash of an id depends on
its value and not on the width that a writer happened to choose.

Every process of a night imports this file, and few of them hash: only those import pandas.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.event_types import EventTypes

TYPE = "type"  # the column with the type of an event
TIMESTAMP = pa.timestamp("us", tz="UTC")
# of a list: the model, the counter that was better, or what is popular of late (the fallback)
SOURCES = ("model", "counter", "popular")
CATEGORY = "category"
# of a neighbour of an item: as similar_items.by says, or popular in the category of a cold item
NEIGHBOUR_SOURCES = ("users", "baskets", "next_baskets", "vectors", CATEGORY)


def canonical_type(id_type: pa.DataType) -> pa.DataType | None:
    """The canonical type of an id column, or None when the type is no integer or string."""
    if pa.types.is_dictionary(id_type):
        id_type = id_type.value_type
    if pa.types.is_signed_integer(id_type):
        return pa.int64()
    if pa.types.is_unsigned_integer(id_type):
        return pa.uint64()
    if pa.types.is_string(id_type) or pa.types.is_large_string(id_type) or _is_string_view(id_type):
        return pa.string()
    return None


def stored_type(id_type: pa.DataType) -> pa.DataType:
    """The type in which ids of `id_type` are written: integers as they are, strings as string."""
    if pa.types.is_dictionary(id_type):
        id_type = id_type.value_type
    return id_type if pa.types.is_integer(id_type) else pa.string()


def _is_string_view(id_type: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(id_type))


def events_schema(
    user_type: pa.DataType, item_type: pa.DataType, *, typed: bool = False
) -> pa.Schema:
    """Checked events, ids canonical; `timestamp` is microseconds since 1970 in UTC.

    `type`: the code of its type, of a log with types.
    """
    columns = [("user_id", user_type), ("item_id", item_type), ("timestamp", pa.int64())]
    return pa.schema([*columns, *([(TYPE, pa.int8())] if typed else [])])


def vocab_schema(item_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            ("item_id", item_type),
            ("index", pa.int32()),
            ("count", pa.int64()),
            ("count_before", pa.int64()),
            ("first_time", TIMESTAMP),
        ]
    )


def sequences_schema(user_type: pa.DataType, types: EventTypes | None = None) -> pa.Schema:
    """One row per user, events in order.

    num_before: so many of the events lie before the split.
    holdout: the position of the first event of the holdout; null without one.
    types: the codes of the types, of a log with types; what they mean is in the metadata.
    """
    columns = [
        ("user_id", user_type),
        ("items", pa.list_(pa.int32())),
        ("times", pa.list_(pa.int64())),
        ("num_before", pa.int32()),
        ("holdout", pa.int32()),
    ]
    if types is None:
        return pa.schema(columns)
    return pa.schema([*columns, ("types", pa.list_(pa.int8()))], types.in_metadata())


def holdout_schema(user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    """One row per user and item; the weights of a user's items are 1 / their number."""
    return pa.schema(
        [
            ("user_id", user_type),
            ("item_id", item_type),
            ("timestamp", TIMESTAMP),
            ("weight", pa.float64()),
        ]
    )


def recommendation_struct(item_type: pa.DataType) -> pa.DataType:
    return pa.struct([("item_id", item_type), ("score", pa.float32()), ("rank", pa.int16())])


def recommendations_schema(user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            ("user_id", user_type),
            ("items", pa.list_(recommendation_struct(item_type))),
            ("source", pa.string()),  # one of SOURCES
            ("history_len", pa.int32()),
            ("model_version", pa.string()),
        ]
    )


def similar_items_schema(item_type: pa.DataType) -> pa.Schema:
    """One row per item and neighbour, the best first; an item without neighbours has no row."""
    return pa.schema(
        [
            ("item_id", item_type),
            ("neighbour_id", item_type),
            ("rank", pa.int16()),  # from 1
            ("score", pa.float32()),
            ("source", pa.string()),  # one of NEIGHBOUR_SOURCES
        ]
    )


def trending_schema(item_type: pa.DataType) -> pa.Schema:
    """The most popular items, the best first; category null: of all, otherwise of that one."""
    return pa.schema(
        [
            ("category", pa.string()),
            ("item_id", item_type),
            ("rank", pa.int16()),  # from 1
            ("score", pa.float32()),
            ("half_life_days", pa.float64()),
        ]
    )


def canonical(ids: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """The same ids in their canonical type."""
    target = canonical_type(ids.type)
    assert target is not None, ids.type
    return ids if ids.type == target else ids.cast(target)


def like(ids: pa.Array, id_type: pa.DataType) -> pa.Array:
    """Canonical ids in another canonical type, null where the value has no such id.

    The ids of a CSV are text. An integer has one spelling: 007 is no id of an integer column.
    """
    if ids.type == id_type:
        return ids
    text = ids.cast(pa.string())
    if id_type == pa.string():
        return text
    is_integer = pc.match_substring_regex(text, r"^(0|-?[1-9][0-9]*)$")
    is_negative = pc.starts_with(text, "-")
    if id_type == pa.int64():
        least, largest = _up_to(text, str(-(2**63))), _up_to(text, str(2**63 - 1))
        fits = pc.if_else(is_negative, least, largest)
    else:
        fits = pc.and_(pc.invert(is_negative), _up_to(text, str(2**64 - 1)))
    return pc.if_else(pc.and_(is_integer, fits), text, None).cast(id_type)


def _up_to(text: pa.Array, limit: str) -> pa.Array:
    """Whether integers of one sign are at most as far from 0 as `limit`; all of them as text."""
    length = pc.utf8_length(text)
    same = pc.and_(pc.equal(length, len(limit)), pc.less_equal(text, limit))
    return pc.or_(pc.less(length, len(limit)), same)


def exactly(ids: pa.ChunkedArray, id_type: pa.DataType) -> pa.Array | None:
    """The same ids in another type of a log; None where not all of them exist in it."""
    target = canonical_type(id_type)
    if canonical_type(ids.type) is None or target is None:
        return None
    converted = like(canonical(ids).combine_chunks(), target)
    if converted.null_count > ids.null_count:
        return None
    try:
        return converted.cast(id_type)
    except pa.ArrowInvalid:  # a narrower integer
        return None


def event_hash(
    users: pa.Array, items: pa.Array, times: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """The hash that orders events of one user at one timestamp, [n] uint64.

    `pandas.util.hash_pandas_object` over the canonical ids and the time in microseconds: it favours
    no item and does not depend on how the log lies in files. The time is in it so that two items
    come in another order from basket to basket. An order that is always the same tells a model
    which item of the next basket comes first, and nobody is asked that.
    """
    import pandas as pd

    frame = pd.DataFrame(
        {"user_id": users.to_pandas(), "item_id": items.to_pandas(), "timestamp": times}
    )
    return np.asarray(pd.util.hash_pandas_object(frame, index=False), np.uint64)


def id_hash(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """A stable hash of canonical ids, [n] uint64; the bucket of a user is this modulo N."""
    import pandas as pd

    return np.asarray(pd.util.hash_pandas_object(ids.to_pandas(), index=False), np.uint64)


def list_offsets(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """Where the lists of a list column without nulls start in its flattened values, [n + 1]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    offsets = column.offsets.to_numpy().astype(np.int64)
    return np.asarray(offsets - offsets[0])


def list_values(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The flattened values of a list column, in order, without those outside a slice."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten()
