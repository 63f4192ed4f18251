"""Arrow types of the tables that other programs read, and the canonical form of ids.

Ids keep the type of the log wherever they are stored. Inside a computation they are canonical
(signed integers int64, unsigned uint64, strings as string), so that a hash of an id depends on
its value and not on the width that a writer happened to choose.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")


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


def events_schema(user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    """Checked events, ids canonical; `timestamp` is microseconds since 1970 in UTC."""
    return pa.schema([("user_id", user_type), ("item_id", item_type), ("timestamp", pa.int64())])


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


def sequences_schema(user_type: pa.DataType) -> pa.Schema:
    """One row per user. `num_before` events lie before the split; `holdout` is a position."""
    return pa.schema(
        [
            ("user_id", user_type),
            ("items", pa.list_(pa.int32())),
            ("times", pa.list_(pa.int64())),
            ("num_before", pa.int32()),
            ("holdout", pa.int32()),
        ]
    )


def holdout_schema(user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    return pa.schema([("user_id", user_type), ("item_id", item_type), ("timestamp", TIMESTAMP)])


def recommendation_struct(item_type: pa.DataType) -> pa.DataType:
    return pa.struct([("item_id", item_type), ("score", pa.float32()), ("rank", pa.int16())])


def recommendations_schema(user_type: pa.DataType, item_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            ("user_id", user_type),
            ("items", pa.list_(recommendation_struct(item_type))),
            ("source", pa.string()),
            ("history_len", pa.int32()),
            ("model_version", pa.string()),
        ]
    )


def canonical(ids: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """The same ids in their canonical type."""
    target = canonical_type(ids.type)
    assert target is not None, ids.type
    return ids if ids.type == target else ids.cast(target)


def pair_hash(users: pa.Array, items: pa.Array) -> npt.NDArray[np.uint64]:
    """The hash that orders events of one user at one timestamp, [n] uint64.

    `pandas.util.hash_pandas_object` over the canonical pair: it favours no item and does not
    depend on how the log lies in files.
    """
    frame = pd.DataFrame({"user_id": users.to_pandas(), "item_id": items.to_pandas()})
    return np.asarray(pd.util.hash_pandas_object(frame, index=False), np.uint64)


def id_hash(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """A stable hash of canonical ids, [n] uint64; the bucket of a user is this modulo N."""
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


def microseconds(time: str) -> int:
    """An ISO date or time in microseconds since 1970; one without a zone is UTC."""
    parsed = datetime.fromisoformat(time)
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def iso(time: int) -> str:
    """Microseconds since 1970 as people read them."""
    return str(np.datetime64(time, "us")) + "Z"
