"""The sections on the log and its items."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffsasrec.config.fields import Fraction, PositiveInt, Section


class EventsConfig(Section):
    path: str = Field(description="file, directory or glob; local, s3:// or pkg://package/file")
    format: Literal["parquet", "csv", "jsonl"] = Field("parquet", description="of every input file")
    user_column: str = Field("user_id", description="column with the user ids")
    item_column: str = Field("item_id", description="column with the item ids")
    time_column: str = Field("timestamp", description="column with the time of the event")
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="unit of integer times; null: the column holds timestamps or ISO strings"
    )
    id_type: Literal["as_read", "int64", "string"] = Field(
        "as_read", description="ids are kept as Parquet has them; CSV and JSON ids are strings"
    )
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
