"""The Iceberg table for the published lists: its schema, its catalog, and whether it fits a log.

pyiceberg is an optional extra: only the functions that talk to a catalog import it.
"""

import importlib.util
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import pyarrow as pa

from diffsasrec.config.secrets import without_secrets
from diffsasrec.config.serving import IcebergConfig
from diffsasrec.errors import ConfigError, DiffsasrecError

log = logging.getLogger(__name__)

# the message of a driver may quote its connection


def table_schema(user_type: pa.DataType, item_type: pa.DataType) -> Any:
    """The pyiceberg Schema of the table for a log with ids of these types."""
    from pyiceberg import types
    from pyiceberg.schema import Schema

    item = types.StructType(
        types.NestedField(8, "item_id", id_type(item_type)),
        types.NestedField(9, "score", types.FloatType()),
        types.NestedField(10, "rank", types.IntegerType()),
    )
    return Schema(
        types.NestedField(1, "user_id", id_type(user_type)),
        types.NestedField(2, "items", types.ListType(7, item, element_required=False)),
        types.NestedField(3, "source", types.StringType()),
        types.NestedField(4, "history_len", types.IntegerType()),
        types.NestedField(5, "model_version", types.StringType()),
        types.NestedField(6, "ds", types.DateType()),
    )


def id_type(stored: pa.DataType) -> Any:
    """The narrowest Iceberg type for every id of a type; Iceberg has no unsigned integers."""
    from pyiceberg import types

    if not pa.types.is_integer(stored):
        return types.StringType()
    bits = stored.bit_width + pa.types.is_unsigned_integer(stored)
    if bits > 64:
        return types.DecimalType(20, 0)
    return types.IntegerType() if bits <= 32 else types.LongType()


def to_partition(part: pa.Table, ds: str) -> pa.Table:
    """A part of the recommendations as rows of the table: with `ds`, in the table's types."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = schema_to_pyarrow(table_schema(*id_types(part)), include_field_ids=False)
    dates = pa.repeat(pa.scalar(date.fromisoformat(ds)), part.num_rows)
    return part.append_column("ds", dates).cast(schema)


def id_types(part: pa.Table) -> tuple[pa.DataType, pa.DataType]:
    """The types of user and item ids in a part of the recommendations."""
    return part.schema.field("user_id").type, part.schema.field("items").type.value_type[0].type


def check_table(
    settings: IcebergConfig, user_type: pa.DataType, item_type: pa.DataType, *, create: bool
) -> None:
    """Checks, before any work, that the table exists or can be made, is writable and fits the log.

    Raises:
        ConfigError: pyiceberg is missing, the catalog can't be reached, or the table does not fit.
    """
    if importlib.util.find_spec("pyiceberg") is None:
        raise ConfigError(
            f"iceberg.table={settings.table} needs pyiceberg, which is not installed; "
            "pip install 'diffsasrec[iceberg]', or leave iceberg.table out"
        )
    remedy = (
        "check iceberg.catalog and iceberg.properties, and what ~/.pyiceberg.yaml and the "
        "PYICEBERG_ variables say of that catalog"
    )
    with explained(ConfigError, settings, f"catalog {settings.catalog} failed", remedy):
        table = load_table(settings, user_type, item_type, create=create)
        if table is None:
            return
        check_fits(settings, table, user_type, item_type)
        probe = table.location_provider().new_data_location(f".probe-{uuid.uuid4().hex}")
        with table.io.new_output(probe).create() as file:
            file.write(b"probe")
        table.io.delete(probe)


def load_table(
    settings: IcebergConfig, user_type: pa.DataType, item_type: pa.DataType, *, create: bool
) -> Any | None:
    """The table; None if it is missing and must not be made."""
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.transforms import IdentityTransform

    assert settings.table is not None
    catalog = load_catalog(settings.catalog, **settings.properties)
    try:
        return catalog.load_table(settings.table)
    except (NoSuchTableError, NoSuchNamespaceError):
        if not create:
            log.info("iceberg: %s does not exist and will be created", settings.table)
            return None
    schema = table_schema(user_type, item_type)
    ds = schema.find_field("ds").field_id
    spec = PartitionSpec(PartitionField(ds, 1000, IdentityTransform(), "ds"))
    catalog.create_namespace_if_not_exists(settings.table.rpartition(".")[0])
    return catalog.create_table_if_not_exists(settings.table, schema, partition_spec=spec)


def check_fits(
    settings: IcebergConfig, table: Any, user_type: pa.DataType, item_type: pa.DataType
) -> None:
    """Raises ConfigError unless the table has our columns, and a partition per value of `ds`."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.transforms import IdentityTransform

    expected, found = (
        schema_to_pyarrow(schema, include_field_ids=False)
        for schema in (table_schema(user_type, item_type), table.schema())
    )
    problems = []
    for field in expected:
        if field.name not in found.names:
            problems.append(f"it has no column {field.name} ({field.type})")
        elif found.field(field.name).type != field.type:
            problems.append(
                f"its column {field.name} is {found.field(field.name).type}, not {field.type}"
            )
    for field in found:
        if field.name not in expected.names and not field.nullable:
            problems.append(f"its column {field.name} is required, and the lists have none")
    fields = table.spec().fields
    by_date = [(table.schema().find_column_name(f.source_id), f.transform) for f in fields]
    if by_date != [("ds", IdentityTransform())]:
        problems.append(f"it is partitioned by {table.spec()}, not by identity(ds) alone")
    if problems:
        raise ConfigError(
            f"iceberg.table={settings.table} does not fit the lists of this log: "
            f"{'; '.join(problems)}; change the table, or name one that does not exist yet"
        )


@contextmanager
def explained(
    error_type: type[DiffsasrecError], settings: IcebergConfig, what: str, remedy: str
) -> Iterator[None]:
    """Turns an error of a catalog or its store into one of ours."""
    try:
        yield
    except DiffsasrecError:
        raise
    except Exception as error:  # of a database, an HTTP client or a store: they share no base
        text = (str(error).strip().splitlines() or ["no message"])[0]
        text = without_secrets(text)
        raise error_type(
            f"iceberg.table={settings.table}: {what}: {type(error).__name__}: {text}; {remedy}"
        ) from None
