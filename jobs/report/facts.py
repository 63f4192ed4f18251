"""What the report says of a night, as plain numbers: made from what the run recorded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.evaluate.exposure import Exposure
from diffsasrec.evaluate.protocol import protocol_of
from diffsasrec.inputs.quarantine import BadRows
from diffsasrec.inputs.row_checks import num_bad
from diffsasrec.lake.stages import STAGES
from diffsasrec.schema import SOURCES

Json = Mapping[str, Any]  # as in the files of a run, which any earlier version may have written


@dataclass(frozen=True)
class Night:
    """What one run has recorded."""

    ds: str
    run_id: str
    status: str  # published, refused, failed, unfinished; done: all but published
    stage: str = ""  # where it stopped
    error: str = ""  # with which message
    numbers: tuple[int, ...] = ()  # in the chain; more than one after a rollback
    records: Mapping[str, Json] = field(default_factory=dict)  # by stage, of those that are done
    stopped: Mapping[str, int] = field(default_factory=dict)  # counts of a prepare that stopped
    metrics: Json | None = None
    cited: Json | None = None  # whose figures the metrics are: ds, run_id; None: its own

    def counts(self, stage: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.records.get(stage, {}).get("counts", {})
        return found or (self.stopped if stage == "prepare" else {})

    def seconds(self, stage: str) -> float | None:
        return self.records.get(stage, {}).get("seconds")

    @property
    def num_bad(self) -> int | None:
        """Rows in quarantine; None where nothing was counted."""
        counts = self.counts("prepare")
        if "rows" not in counts:
            return None
        return num_bad(counts)

    @property
    def bad_share(self) -> float | None:
        rows = self.counts("prepare").get("rows")
        return None if not rows or self.num_bad is None else self.num_bad / rows

    @property
    def num_lists(self) -> int | None:
        counts = self.counts("score")
        return sum(counts.get(source, 0) for source in SOURCES) if counts else None

    @property
    def k(self) -> int | None:
        """The largest cut-off that was measured."""
        names = [n.removeprefix("NDCG@") for n in (self.metrics or {}).get("model", {})]
        return max((int(n) for n in names if n.isdigit()), default=None)

    @property
    def _measured(self) -> Json:
        """The metrics of the model; empty where no user had a holdout item."""
        model: Json = (self.metrics or {}).get("model", {})
        return model if model.get("n") else {}

    def metric(self, name: str) -> float | None:
        """A metric of the model at the largest cut-off, as in metric("NDCG")."""
        return self._measured.get(f"{name}@{self.k}")

    def interval(self, name: str) -> tuple[float, float] | None:
        found = self._measured.get(f"{name}@{self.k}_ci")
        return (found[0], found[1]) if found else None

    def best_counter(self) -> tuple[str, float] | None:
        """The baseline with the best NDCG, and that."""
        baselines = self.metrics["baselines"] if self.metrics and self._measured else {}
        values = {name: row[f"NDCG@{self.k}"] for name, row in baselines.items()}
        return max(values.items(), key=lambda pair: pair[1]) if values else None

    @property
    def protocol(self) -> int | None:
        """The rule by which its figures were made; None where there are none."""
        return None if self.metrics is None else protocol_of(self.metrics)

    @property
    def counter(self) -> str | None:
        """The counter that makes the lists in place of the model; None: the model does."""
        found = self.records.get("evaluate", {}).get("counter")
        return found and str(found["name"])

    @property
    def is_no_better(self) -> bool:
        """Whether a counter is as good as the model."""
        ndcg, counter = self.metric("NDCG"), self.best_counter()
        return ndcg is not None and counter is not None and ndcg <= counter[1]

    @property
    def measured(self) -> str:
        """The run date of the night that measured."""
        return self.ds if self.cited is None else str(self.cited["ds"])

    @property
    def days_since_measured(self) -> int:
        return (date.fromisoformat(self.ds) - date.fromisoformat(self.measured)).days


@dataclass(frozen=True)
class ShownItem:
    item_id: str
    title: str | None
    note: str  # when it was touched, or how probable it is


@dataclass(frozen=True)
class User:
    user_id: str
    source: str
    history_len: int
    history: tuple[ShownItem, ...]  # the newest last
    items: tuple[ShownItem, ...]  # as they are ranked


@dataclass(frozen=True)
class Confidence:
    """The probabilities that the items of some lists had when a step of decoding chose them."""

    step: int  # from 1
    kind: str  # in words
    num_slots: int
    low: float  # a tenth lies below, a tenth above `high`
    middle: float
    high: float


@dataclass(frozen=True)
class ListSample:
    """What was read of the lists: of some buckets, each a random sample of the users."""

    exposure: Exposure
    log_counts: npt.NDArray[np.int64]  # events per item of the vocabulary, [V]
    num_buckets: int
    num_read: int


@dataclass(frozen=True)
class Facts:
    night: Night
    not_current: str = ""  # that another night is served, and how to change it
    is_stuck: bool = False  # what is served lies in the future
    earlier: tuple[Night, ...] = ()  # published ones, the newest last
    config: Json = field(default_factory=dict)  # resolved; empty where it is not known
    bad: BadRows | None = None
    trained_before: int | None = None  # of the weights that serve, microseconds
    model_version: str = ""
    events_by_day: Mapping[str, int] = field(default_factory=dict)  # an estimate from some buckets
    lists: ListSample | None = None
    confidence: tuple[Confidence, ...] = ()  # by step; of decoding that has several
    users: tuple[User, ...] = ()
    no_titles: str = ""  # why there are none, where a table is configured

    @property
    def measured_earlier(self) -> list[Night]:
        """The earlier nights that measured weights of their own, by the rule of this night."""
        own = [past for past in self.earlier if past.metrics and not past.cited]
        return [past for past in own if self.night.protocol in (None, past.protocol)]


def usual(values: Iterable[float | None]) -> float | None:
    """The median of the nights that have one."""
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def curves(records: Mapping[str, Json]) -> dict[str, list[dict[str, float]]]:
    """The epochs of every phase of training, by phase, in the order of their time."""
    found = [
        (phase, epochs)
        for stage in STAGES
        for phase, epochs in records.get(stage, {}).get("history", {}).items()
        if epochs
    ]
    # a refit has both in one record
    return dict(sorted(found, key=lambda pair: ("refit" in pair[0], "finetune" in pair[0])))


def timings(night: Night, earlier: Iterable[Night]) -> list[tuple[str, float, float | None]]:
    """Stage, its seconds, and the usual ones."""
    nights = list(earlier)
    return [
        (stage, seconds, usual(past.seconds(stage) for past in nights))
        for stage in STAGES
        if (seconds := night.seconds(stage)) is not None
    ]
