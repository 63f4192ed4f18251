"""A log that is a table: the version that a night reads, and the data files of it."""

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import InputDataError
from diffsasrec.tables import delta, iceberg
from diffsasrec.tables.data_files import DataFile, used_columns


def pinned(events: EventsConfig) -> EventsConfig:
    """The same settings with the version of the table: the newest one where none is given.

    A night pins it once, at its start: every later step, and every attempt after it, reads what the
    table held then.

    Raises:
        ConfigError, InputDataError: the table can't be opened, or has no version.
    """
    if events.table is None or events.table_version is not None:
        return events
    newest = iceberg.newest_snapshot if events.table_format == "iceberg" else delta.newest_version
    return events.model_copy(update={"table_version": newest(events)})


def data_files(events: EventsConfig, *, all_columns: bool = False) -> list[DataFile]:
    """The data files of the pinned version of a table, sorted by path.

    Args:
        all_columns: they know the constants of all columns, and not only of those that a night
            reads.

    Raises:
        ConfigError: the table or the version is missing.
        InputDataError: it has no data file, or what is deleted in it can't be applied.
    """
    version = events.table_version
    assert version is not None, "pin the version first"
    table_format = iceberg if events.table_format == "iceberg" else delta
    files = table_format.files_at(events, version, None if all_columns else used_columns(events))
    if not files:
        raise InputDataError(
            f"{events.source} holds no row at version {version}; bring a table with events"
        )
    return files
