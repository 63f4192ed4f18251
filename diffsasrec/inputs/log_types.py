"""The types of the three columns over the files of a log, brought to one of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.formats.chunks import RAW
from diffsasrec.schema import canonical_type, stored_type

ID_KEYS = ("events.user_column", "events.item_column")
Types = tuple[pa.DataType, pa.DataType, pa.DataType]  # of RAW


@dataclass(frozen=True)
class FileTypes:
    path: str
    types: Types


def columns_of(events: EventsConfig) -> list[str]:
    return [events.user_column, events.item_column, events.time_column]


def type_columns(events: EventsConfig) -> list[str]:
    """The column with the types of the events, if the log has types."""
    return [] if events.type_column is None else [events.type_column]


def id_kind(id_type: pa.DataType) -> pa.DataType | None:
    """The canonical type that ids of a type are read as; null for nulls; None for no ids.

    Floats and decimals without digits behind the point are integers.
    """
    if pa.types.is_null(id_type):
        return pa.null()
    if pa.types.is_floating(id_type) or (pa.types.is_decimal(id_type) and id_type.scale == 0):
        return pa.int64()
    return canonical_type(id_type)


def time_kind(time_type: pa.DataType) -> str | None:
    """moment, number, text or nothing (for nulls); None for no times."""
    if pa.types.is_null(time_type):
        return "nothing"
    if pa.types.is_timestamp(time_type) or pa.types.is_date(time_type):
        return "moment"
    is_number = pa.types.is_integer(time_type) or pa.types.is_floating(time_type)
    if is_number or pa.types.is_decimal(time_type):
        return "number"
    return "text" if canonical_type(time_type) == pa.string() else None


def id_type_of(files: Sequence[FileTypes], place: int, events: EventsConfig) -> pa.DataType:
    """The type in which the ids of a column are written, over all files.

    Raises:
        InputDataError: a file has no ids there, or one has numbers and another texts.
    """
    column = columns_of(events)[place]
    for file in files:
        if id_kind(file.types[place]) is None:
            raise _no_ids(file, column, file.types[place])
    if events.id_type != "as_read":
        return {"int64": pa.int64(), "string": pa.string()}[events.id_type]
    filled = [file for file in files if id_kind(file.types[place]) != pa.null()]
    if not filled:
        raise _no_ids(files[0], column, files[0].types[place])
    first = filled[0]
    for file in filled:
        is_text = [id_kind(each.types[place]) == pa.string() for each in (first, file)]
        if is_text[0] != is_text[1]:
            raise InputDataError(
                f"{file.path}: column {column} is {file.types[place]}, but {first.types[place]} in "
                f"{first.path}; set events.id_type to string or int64, or rewrite one of the files"
            )
    return _common({_stored(file.types[place]) for file in filled})


def _no_ids(file: FileTypes, column: str, found: pa.DataType) -> InputDataError:
    return InputDataError(
        f"{file.path}: column {column} is {found}; ids must be integers or strings; cast the "
        "column in the job that writes the log, or name another one"
    )


def _stored(id_type: pa.DataType) -> pa.DataType:
    return stored_type(id_type) if canonical_type(id_type) is not None else pa.int64()


def _common(types: set[pa.DataType]) -> pa.DataType:
    """The widest of some types of integers, or string; int64 where only some have a sign."""
    if len(types) == 1 or pa.string() in types:
        return next(iter(types)) if len(types) == 1 else pa.string()
    if len({pa.types.is_signed_integer(each) for each in types}) > 1:
        return pa.int64()
    return max(types, key=lambda each: int(each.bit_width))


def check_type_column(kind: pa.DataType, path: str, events: EventsConfig) -> None:
    """Checks that a column can hold the types of events.

    Raises:
        InputDataError: names the file, the column and the type.
    """
    if id_kind(kind) is None and not pa.types.is_boolean(kind):
        raise InputDataError(
            f"{path}: column {events.type_column} is {kind}; types of events must be texts or "
            "integers; cast the column in the job that writes the log, or set events.type_column"
        )


def check_times(files: Sequence[FileTypes], events: EventsConfig) -> None:
    """Checks that the settings fit the time column of every file.

    Raises:
        ConfigError: events.time_unit or events.time_format does not fit.
        InputDataError: a column holds no times, or one file has numbers and another moments.
    """
    seen: dict[str, FileTypes] = {}
    for file in files:
        kind = time_kind(file.types[2])
        if kind is None:
            raise InputDataError(
                f"{file.path}: column {events.time_column} is {file.types[2]}; times must be "
                "numbers, texts, dates or timestamps; cast the column in the job that writes the "
                "log, or set events.time_column"
            )
        seen.setdefault(kind, file)
    if {"moment", "number"} <= seen.keys():
        one, other = (each for kind, each in seen.items() if kind in ("moment", "number"))
        raise InputDataError(
            f"{other.path}: column {events.time_column} is {other.types[2]}, but {one.types[2]} "
            f"in {one.path}; rewrite one of the files"
        )
    for kind, file in seen.items():
        _check_settings(kind, file, events)


def _check_settings(kind: str, file: FileTypes, events: EventsConfig) -> None:
    where = f"column {events.time_column} is {file.types[2]} in {file.path}"
    if kind == "moment" and events.time_unit is not None:
        raise ConfigError(
            f"events.time_unit={events.time_unit}, but {where}, which has its own unit; remove "
            "events.time_unit"
        )
    if kind == "moment" and events.time_format:
        raise ConfigError(
            f"events.time_format={list(events.time_format)}, but {where}, which is no text; remove "
            "events.time_format"
        )
    if kind == "number" and events.time_unit is None and not events.time_format:
        raise ConfigError(
            f"events.time_unit is not set, but {where}; set it to s, ms, us or ns, or set "
            "events.time_format if numbers such as 20240131 are days (%Y%m%d)"
        )


def notes_of(files: Sequence[FileTypes], events: EventsConfig) -> list[str]:
    """What is done to the ids of a log that its owner should know."""
    found = []
    for place, name in enumerate(columns_of(events)[: len(RAW) - 1]):
        floats = [f for f in files if pa.types.is_floating(f.types[place])]
        if floats:
            found.append(
                f"column {name} is {floats[0].types[place]} in {floats[0].path}: its ids are read "
                "as integers, 17850.0 as 17850; others are bad rows"
            )
    return found
