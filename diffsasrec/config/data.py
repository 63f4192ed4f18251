"""The sections on the log and its items."""

import codecs
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from diffsasrec.config.fields import Fraction, NonNegativeInt, PositiveInt, Section
from diffsasrec.config.secrets import plain_properties
from diffsasrec.config.where import Condition, parse_condition
from diffsasrec.event_types import MOST_TYPES, EventTypes


class EventTypeConfig(Section):
    """What the events of one type count, and what they are for."""

    weight: Annotated[float, Field(ge=1e-6, le=1000)] = Field(
        1.0, description="what an event counts where events are counted"
    )
    target: bool = Field(True, description="lists predict such events, and are measured by them")
    seen: bool = Field(True, description="score.filter_seen leaves out items of such events")


class EventsConfig(Section):
    path: str = Field("", description="file, directory or glob; local, s3:// or pkg://package/file")
    table: str | None = Field(
        None,
        description="in place of path: namespace.name of an Iceberg table, or the directory of a "
        "Delta table, local or s3://",
    )
    table_format: Literal["iceberg", "delta"] = Field("iceberg", description="of events.table")
    table_version: int | None = Field(
        None,
        description="snapshot of an Iceberg table, version of a Delta table; null: the newest one "
        "when a night begins, which is then part of the run",
    )
    table_catalog: str = Field(
        "default", description="of an Iceberg table, as pyiceberg's own variables and file name it"
    )
    table_properties: dict[str, str] = Field(
        {}, description="of that catalog, or of the store of a Delta table; no secret"
    )
    format: Literal["parquet", "csv", "jsonl"] = Field("parquet", description="of every input file")
    user_column: str = Field("user_id", description="column with the user ids")
    item_column: str = Field("item_id", description="column with the item ids")
    time_column: str = Field("timestamp", description="column with the time of the event")
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None,
        description="unit of times that are numbers; null: the column holds timestamps, dates or "
        "texts",
    )
    time_format: tuple[str, ...] = Field(
        (),
        description="how times are written as text, in the letters of strptime, tried in this "
        "order, as in [%d/%m/%Y %H:%M]; empty: ISO 8601",
    )
    where: tuple[str, ...] = Field(
        (),
        description="conditions on columns that a row must fulfil, or it is filtered, as in "
        '["event_type in [purchase, cart]", rating >= 4]',
    )
    type_column: str | None = Field(
        None, description="column with the type of the event, as in view, cart, purchase"
    )
    types: dict[str, EventTypeConfig] = Field(
        {},
        description="the types that are read, others are filtered; of each `weight`: what an event "
        "counts where events are counted (1.0); `target`: whether lists predict it (true); `seen`: "
        "whether score.filter_seen leaves out its items (true)",
    )
    lookback_days: PositiveInt | None = Field(
        None,
        description="only events of so many days before the run date are read; null: all",
    )
    incremental: bool = Field(
        False,
        description="a night reads only the files that the newest published one has not read, and "
        "takes over the rest from its run; equal byte for byte to reading all, which it does where "
        "that can't be, and says why",
    )
    id_type: Literal["as_read", "int64", "string"] = Field(
        "as_read", description="ids are kept as Parquet has them; CSV and JSON ids are strings"
    )
    separator: str | None = Field(
        None,
        description="between the fields of a CSV, as in ; or :: ; null: the first of comma, tab, "
        "semicolon, bar, :: and \\x01 by which the first line has the columns",
    )
    columns: tuple[str, ...] | None = Field(
        None, description="names of the columns of CSV files without a header line"
    )
    quote: str | None = Field('"', description="around fields of a CSV; null: no field is quoted")
    escape: str | None = Field(
        None, description="before a quote within a quoted field of a CSV, as in \\ (Spark, MySQL)"
    )
    skip_lines: NonNegativeInt = Field(0, description="lines before the header of a CSV")
    null_texts: tuple[str, ...] = Field(
        ("\\N", "NULL", "null", "NA", "N/A", "NaN", "nan", "None"),
        description="texts of a CSV, without quotes, that are no value",
    )
    thousands: str | None = Field(
        None, description="between groups of three digits in numbers of a CSV, as in 1.234.567"
    )
    decimal: str | None = Field(
        None, description="before the fraction of numbers of a CSV, as the comma in 1,5; null: ."
    )
    encoding: str = Field("utf-8", description="of CSV and JSON lines, as in latin-1 or cp1252")
    partition_column: str | None = Field(
        None, description="hive key of a date (dt=YYYY-MM-DD): later partitions are not read"
    )
    partition_format: str | None = Field(
        None,
        description="directories that hold the date of a partition in another layout, as in "
        "year=%Y/month=%m/day=%d or %Y/%m/%d; in place of partition_column",
    )
    max_bad_fraction: Fraction = Field(
        0.01, description="above this share of bad rows the run stops"
    )
    max_bad_fraction_of_newest: Fraction | None = Field(
        None,
        description="above this share in one of the newest days or files the run stops; null: ten "
        "times max_bad_fraction",
    )
    min_rows_of_newest: PositiveInt = Field(
        1000, description="a day or file of fewer rows is not judged by itself"
    )

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(map(parse_condition, self.where))

    @property
    def event_types(self) -> EventTypes | None:
        """The types with their codes; None: the log has none, all events are alike."""
        return EventTypes.of(self.types) if self.types else None

    @field_validator("types", mode="before")
    @classmethod
    def _names_are_texts(cls, types: Any) -> Any:
        # a log may number its types, and YAML reads 1 as a number
        is_number = {key: type(key) is int for key in types} if isinstance(types, dict) else {}
        return {str(k) if is_number[k] else k: types[k] for k in types} if is_number else types

    @model_validator(mode="after")
    def _check_types(self) -> Self:
        if bool(self.types) != (self.type_column is not None):
            raise ValueError(
                f"events.type_column={self.type_column} and events.types={sorted(self.types)} need "
                "each other: name the column and the types in it, or leave out both"
            )
        if self.types and not any(each.target for each in self.types.values()):
            raise ValueError(
                f"events.types: none of {', '.join(self.types)} is a target, so that nothing would "
                "be predicted; set target: true for one of them"
            )
        if len(self.types) > MOST_TYPES:
            raise ValueError(
                f"events.types names {len(self.types)} types, more than {MOST_TYPES}; is "
                f"{self.type_column} the right column?"
            )
        return self

    @field_validator("where")
    @classmethod
    def _are_conditions(cls, where: tuple[str, ...]) -> tuple[str, ...]:
        for text in where:
            parse_condition(text)
        return where

    @field_validator("time_format", "where", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        for key, value in (("quote", self.quote), ("escape", self.escape)):
            if value is not None and (len(value) != 1 or not value.isascii()):
                raise ValueError(f"events.{key}={value!r}: give one ASCII character, or null")
        if self.separator is not None and not (self.separator and self.separator.isascii()):
            raise ValueError(f"events.separator={self.separator!r}: give ASCII characters, or null")
        _check_marks(self.thousands, self.decimal)
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(
                f"events.encoding={self.encoding} is not known; write it as in utf-8, latin-1, "
                "cp1252 or utf-16"
            ) from None
        if self.time_format and self.time_unit is not None:
            raise ValueError(
                f"events.time_unit={self.time_unit} is for numbers and events.time_format="
                f"{list(self.time_format)} for texts; keep one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_partitions(self) -> Self:
        if self.partition_column is not None and self.partition_format is not None:
            raise ValueError(
                f"events.partition_column={self.partition_column} and events.partition_format="
                f"{self.partition_format} both name the date of a partition; keep one of them"
            )
        if self.partition_format is not None and "%" not in self.partition_format:
            raise ValueError(
                f"events.partition_format={self.partition_format} names no date; write it as in "
                "year=%Y/month=%m/day=%d"
            )
        return self

    @field_validator("table_properties", mode="before")
    @classmethod
    def _no_secrets(cls, properties: Any) -> Any:
        return plain_properties(properties, "events.table_properties")

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if bool(self.path) == (self.table is not None):
            raise ValueError(
                "events.path and events.table both say where the log lies; give one of them"
                if self.path
                else "events.path is missing; set it in the file or with --set events.path=..., or "
                "set events.table"
            )
        if self.table is None and self.table_version is not None:
            raise ValueError(
                f"events.table_version={self.table_version} needs events.table; leave it out"
            )
        partitions = self.partition_column or self.partition_format
        if self.table is not None and (self.format != "parquet" or partitions):
            raise ValueError(
                f"events.table={self.table}: events.format, events.partition_column and "
                "events.partition_format are for the files of events.path; leave them out"
            )
        return self

    @property
    def source(self) -> str:
        """The key that says where the log lies, with its value, for messages."""
        return f"events.path={self.path}" if self.table is None else f"events.table={self.table}"


def _check_marks(thousands: str | None, decimal: str | None) -> None:
    """Raises ValueError unless numbers can be read by these."""
    for key, mark in (("thousands", thousands), ("decimal", decimal)):
        if mark is not None and (len(mark) != 1 or mark.isalnum() or mark in "+-"):
            raise ValueError(
                f"events.{key}={mark!r}: give one sign, as in {',' if key == 'decimal' else '.'}"
            )
    if decimal is not None and decimal == thousands:
        raise ValueError(
            f"events.thousands and events.decimal are both {decimal!r}; correct one of them"
        )


class SplitConfig(Section):
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="the split time is this quantile of all timestamps (nearest rule)"
    )
    time: datetime | None = Field(None, description="a fixed split time (UTC), in its place")
    min_item_count: PositiveInt = Field(
        1, description="rarer items are dropped; what is measured counts before the split"
    )
    min_user_events: Annotated[int, Field(ge=2)] = Field(
        2, description="shorter histories are not trained on"
    )
    max_user_events: PositiveInt = Field(100_000, description="only a user's last events are kept")
    users_per_bucket: PositiveInt = Field(
        20_000, description="a bucket file is the unit of training input, scoring and resuming"
    )


class VocabConfig(Section):
    previous_path: str | None = Field(
        None, description="directory of an earlier vocab: its items keep their indices"
    )


class ItemsConfig(Section):
    path: str | None = Field(
        None,
        description="Parquet or CSV, or a directory of such files, with a row per item: what "
        "people see, and what rules need",
    )
    id_column: str = Field("item_id", description="column with the item ids, as in the log")
    title_column: str | None = Field(None, description="column with what an item is called")
    category_column: str | None = Field(None, description="column with the kind of an item")
