"""The columns of a sample brought to plain types, however they are stored."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.formats.parquet_rows import select
from diffsasrec.schema import canonical_type

MOMENT = pa.timestamp("us")  # UTC
PLAIN = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_timestamp, pa.types.is_date),
)
LISTS = "holds lists: write a row for each of their values"


def leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """The columns, those within structs with dots (user.id), and their types.

    A column of that name comes before one within a struct, as in a night.
    """

    def below(field: pa.Field, above: str) -> Iterator[tuple[str, pa.DataType]]:
        name = f"{above}{field.name}"
        if pa.types.is_struct(field.type):
            for inner in field.type.fields:
                yield from below(inner, f"{name}.")
        elif not above or name not in schema.names:
            yield name, field.type

    for field in schema:
        yield from below(field, "")


def why_unusable(kind: pa.DataType) -> str | None:
    """Why a column of a type holds no users, items or times, in words; None if it may."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind):
        return LISTS if not pa.types.is_map(kind) else f"is {kind}: write its values as columns"
    is_plain = canonical_type(kind) is not None or any(is_so(kind) for is_so in PLAIN)
    if is_plain:
        return None
    return f"is {kind}: cast it to text or to an integer"


def unusable_of(schema: pa.Schema) -> dict[str, str]:
    """The columns that can't be users, items or times, and why, in words."""
    found = list(leaves(schema))
    names = [name for name, _ in found]
    twice = {name: "is there twice: rename one" for name in names if names.count(name) > 1}
    return {name: why for name, kind in found if (why := why_unusable(kind))} | twice


def plain_table(table: pa.Table) -> pa.Table:
    """The usable columns of a table, flat and of plain types; those within structs with dots."""
    unusable = unusable_of(table.schema)
    names = [name for name, _ in leaves(table.schema) if name not in unusable]
    return pa.table([plain(select(table, [name])[name]) for name in names], names=names)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as bool, integers, floats without NaN, string, date32 or UTC in microseconds."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind) or canonical_type(kind) == pa.string():
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        naive = column.cast(pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) else column
        return naive.cast(MOMENT, safe=False)
    if pa.types.is_decimal(kind):
        return _of_decimals(column)
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(column), None, column)
    return column


def _of_decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole ones as they are, others to the nearest float."""
    if column.type.scale > 0:
        return column.cast(pa.float64())
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # of more digits
        return column.cast(pa.string())


def merged(parts: Sequence[pa.Table]) -> tuple[pa.Table, frozenset[str]]:
    """Plain tables of one log as one, and the columns that are texts in some of them alone.

    A column that a table has not is null there.
    """
    types: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            filled = part[field.name].null_count < part.num_rows
            types.setdefault(field.name, set()).update({field.type} if filled else ())
    common = {name: _common(found) for name, found in types.items()}
    alike = [
        pa.table(
            [part[n].cast(common[n], safe=False) for n in part.column_names], part.column_names
        )
        for part in parts
    ]
    mixed = {name for name, found in types.items() if pa.string() in found and len(found) > 1}
    return pa.concat_tables(alike, promote_options="permissive"), frozenset(mixed)


def _common(types: set[pa.DataType]) -> pa.DataType:
    """A type for values of several plain types."""
    if len(types) < 2:
        return next(iter(types), pa.string())
    if all(pa.types.is_temporal(kind) for kind in types):
        return MOMENT
    if any(not pa.types.is_integer(kind) and not pa.types.is_floating(kind) for kind in types):
        return pa.string()
    is_float = any(pa.types.is_floating(kind) for kind in types)
    return pa.float64() if is_float or pa.uint64() in types else pa.int64()
