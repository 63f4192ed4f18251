"""The data files of an Iceberg table at a snapshot, and the rows deleted in them.

pyiceberg is an optional extra: only the functions that talk to a catalog import it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.tables.data_files import DataFile, Deleted, Names
from diffsasrec.tables.explained import explained, needs

REWRITE = (
    "this version can't apply that, and the deleted rows would come back; rewrite the table's "
    "data files (rewrite_data_files of Spark or Trino), or name a copy of it"
)


def newest_snapshot(events: EventsConfig) -> int:
    """The id of the current snapshot.

    Raises:
        ConfigError: pyiceberg, the catalog or the table is missing.
        InputDataError: the table has no snapshot.
    """
    snapshot = _load(events).current_snapshot()
    if snapshot is None:
        raise InputDataError(
            f"{events.source} has no snapshot, and so no row; bring a table with events"
        )
    return int(snapshot.snapshot_id)


def files_at(
    events: EventsConfig, snapshot: int, used: Mapping[str, bool] | None
) -> list[DataFile]:
    """The data files of a snapshot, sorted by path.

    Args:
        used: as of `used_columns`; None: all columns, and a row may be without a value of any.

    Raises:
        ConfigError: the table or the snapshot is missing.
        InputDataError: what is deleted in the snapshot can't be applied.
    """
    table = _load(events)
    if table.snapshot_by_id(snapshot) is None:
        known = ", ".join(str(one.snapshot_id) for one in table.snapshots()[-5:])
        raise ConfigError(
            f"events.table_version={snapshot}: {events.source} has no such snapshot, or it has "
            f"expired; its newest are {known}"
        )
    with explained(events):
        scan = table.scan(snapshot_id=snapshot)
        names = Names({one.field_id: one.name for one in scan.projection().fields}, _mapped(table))
        try:
            tasks = list(scan.plan_files())
        except ValueError as error:
            if "equality deletes" not in str(error):
                raise
            raise InputDataError(
                f"{events.source} has equality deletes at snapshot {snapshot}: {REWRITE}"
            ) from None
        constants = _Constants(table, scan.projection(), used)
    files = [_file(task, names, events, constants.of(task.file)) for task in tasks]
    return sorted(files, key=lambda file: file.path)


def _load(events: EventsConfig) -> Any:
    """The table."""
    needs("pyiceberg", "iceberg", events)
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    with explained(events):
        catalog = load_catalog(events.table_catalog, **events.table_properties)
        try:
            return catalog.load_table(events.table)
        except (NoSuchTableError, NoSuchNamespaceError):
            raise ConfigError(
                f"{events.source}: catalog {events.table_catalog} has no such table; check "
                "events.table and events.table_catalog"
            ) from None


def _mapped(table: Any) -> dict[str, str]:
    """The table's names by those of files without field ids, as Hive and Spark have written."""
    mapping, schema = table.name_mapping(), table.schema()
    fields = mapping.root if mapping is not None else ()
    named = {one.field_id: one.names for one in fields if one.field_id is not None}
    known = {one.field_id: one.name for one in schema.fields}
    return {name: known[n] for n, names in named.items() if n in known for name in names}


class _Constants:
    """The values of columns that data files may not hold."""

    def __init__(self, table: Any, schema: Any, used: Mapping[str, bool] | None) -> None:
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        self._specs = table.specs()
        types = schema_to_pyarrow(schema)
        used = dict.fromkeys(types.names, True) if used is None else used
        used = {name: may_miss for name, may_miss in used.items() if name in types.names}
        self._numbers = {schema.find_field(name).field_id: name for name in used}
        self._types = {name: types.field(name).type for name in used}
        # what rows have that are older than the column
        self._defaults = {
            name: pa.scalar(schema.find_field(name).initial_default, self._types[name])
            for name, may_miss in used.items()
            if may_miss
        }

    def of(self, file: Any) -> dict[str, pa.Scalar]:
        """Those of one data file: of its partition, or what older rows have."""
        from pyiceberg.transforms import IdentityTransform

        found = dict(self._defaults)
        for place, field in enumerate(self._specs[file.spec_id].fields):
            name = self._numbers.get(field.source_id)
            if name is not None and isinstance(field.transform, IdentityTransform):
                found[name] = pa.scalar(file.partition[place], self._types[name])
        return found


def _file(
    task: Any, names: Names, events: EventsConfig, constants: dict[str, pa.Scalar]
) -> DataFile:
    file = task.file
    _refuse_other_formats([file], events, "a data file")
    _refuse_other_formats(task.delete_files, events, "a file of deleted rows")
    deletes = tuple(sorted(readable_path(one.file_path) for one in task.delete_files))
    return DataFile(
        readable_path(file.file_path),
        int(file.file_size_in_bytes),
        digest(deletes),
        str(file.file_path),
        names,
        Deleted(deletes) if deletes else None,
        constants,
    )


def _refuse_other_formats(files: Iterable[Any], events: EventsConfig, what: str) -> None:
    for file in files:
        if file.file_format.name != "PARQUET":
            raise InputDataError(
                f"{events.source}: {file.file_path}, {what}, is {file.file_format.name}: {REWRITE}"
            )


def digest(deletes: Iterable[str]) -> str:
    """A short text that changes with what is deleted; "0" where nothing is."""
    text = "\n".join(deletes)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0"


def readable_path(path: str) -> str:
    """The path of a file as a log's files are named: file:///a -> /a, s3a://b/c -> s3://b/c."""
    for scheme in ("s3a://", "s3n://"):
        path = path.replace(scheme, "s3://", 1) if path.startswith(scheme) else path
    return "/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path
