"""What each stage of a night records, and what later stages read of it.

A record is JSON in the marker of its stage. Keys that this version does not know are left out when
it is read; keys that an earlier version did not write have their defaults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, TypedDict

from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.lake.run_dir import RunDir


class Start(TypedDict):
    """Published weights from which a training starts."""

    ds: str  # date and id of the run that trained them
    run_id: str
    checkpoint: str  # a directory of that run
    trained_before: int  # microseconds


Starts = dict[str, Start]  # by the checkpoint directory of tonight that starts there


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every stage records."""

    stage: ClassVar[str] = ""  # whose record it is; "": of several

    counts: Mapping[str, Any]
    seconds: float | None = None  # how long the stage took; None: it is not done yet

    @classmethod
    def of(cls, run: RunDir) -> Self:
        """The record of a run.

        Raises:
            ConfigError: the stage is not done.
        """
        return cls.from_json(run.require(cls.stage))

    @classmethod
    def if_done(cls, run: RunDir) -> Self | None:
        """The record of a run; None where the stage is not done."""
        found = run.record(cls.stage)
        return None if found is None else cls.from_json(found)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        """Without what is None."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Prepared(Record):
    stage: ClassVar[str] = "prepare"

    num_buckets: int
    num_items: int  # rows of the vocabulary
    split_time: int  # microseconds, as the following times
    second_cut: int
    time_quantiles: Sequence[int] = ()
    newest: Mapping[str, Any] | None = None  # the newest days and files that were judged
    inputs: Sequence[Mapping[str, Any]] = ()  # path, size and version of each file
    left_out: Sequence[Mapping[str, Any]] = ()  # reason, number and example: files of the log
    # of a log with types, the rows that are kept, and those that are filtered, by their type
    event_types: Mapping[str, Mapping[str, int]] | None = None
    # with events.incremental: whose rows serve and how many are new, or why none do (why_not)
    taken_over: Mapping[str, Any] | None = None
    rules: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # ids and known ids by key


@dataclass(frozen=True, kw_only=True)
class Trained(Record):
    """Of finetune and refit."""

    history: Mapping[str, Any] | None = None  # epochs by phase; None: nothing was trained
    reused: Mapping[str, Any] | None = None  # whose weights serve; None: this run's own


@dataclass(frozen=True, kw_only=True)
class Pretrained(Trained):
    stage: ClassVar[str] = "pretrain"

    started_from: Starts | None = None  # None: all trainings of the run start from scratch

    def to_json(self) -> dict[str, Any]:
        own = {} if self.reused else {"started_from": self.started_from}
        return super().to_json() | own


@dataclass(frozen=True, kw_only=True)
class Evaluated(Record):
    stage: ClassVar[str] = "evaluate"

    popular_window: int  # the window of recent popularity, as an index of WINDOWS
    reused: Mapping[str, Any] | None = None  # whose weights serve; None: this run's own
    metrics: Mapping[str, Any] | None = None  # of the run that measured these weights
    counter: Mapping[str, Any] | None = None  # makes the lists, CounterSettings; None: the model

    @property
    def counter_settings(self) -> CounterSettings | None:
        return None if self.counter is None else CounterSettings.from_json(self.counter)


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    stage: ClassVar[str] = "score"


@dataclass(frozen=True, kw_only=True)
class Published(Record):
    stage: ClassVar[str] = "publish"

    published: str  # where the lists of the date are shown


def counts_of(run: RunDir, stage: str) -> Mapping[str, Any]:
    """What a stage that is done has counted."""
    return Record.from_json(run.require(stage)).counts
