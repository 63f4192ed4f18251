"""The phases of a training: what each trains on, and the bucket files that it reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainConfig, TrainStageConfig
from diffsasrec.event_types import EventTypes
from diffsasrec.files.storage import Storage
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import Flat, flatten, only_items
from diffsasrec.train.ranks import Worker

T = TypeVar("T")
Tell = Callable[[str, int, int, str], None]  # phase, what is done, of how much, note


@dataclass(frozen=True)
class Phase:
    """One stretch of training: what is trained on, how, and where the weights go."""

    name: str  # names the state directory, and is part of every seed
    settings: TrainStageConfig  # a FinetuneConfig trains on batch times, else on windows
    trained_before: int  # microseconds: only events before it are trained on
    output: str  # checkpoint directory, below the run directory
    init_from: str = ""  # checkpoint directory, below the run directory; "": from scratch
    epochs_from: str = ""  # the phase that has selected the number of epochs; "": as in settings
    validate_before: int | None = None  # measure on events in [trained_before, validate_before)


@dataclass(frozen=True)
class Job:
    """What the phases of one training share."""

    run: Storage
    attempt: str
    num_buckets: int
    model: ModelConfig
    train: TrainConfig
    min_user_events: int
    filter_seen: bool
    seed: int
    time_quantiles: tuple[int, ...]  # of the log, evenly spaced from 0 to 1, microseconds
    min_item_count: int = 1  # rarer items before the end of a phase take no part in it
    # columns of the vocabulary that count events before these times, microseconds
    counted: Mapping[int, str] = field(default_factory=dict)
    types: EventTypes | None = None  # of a log with types


def section_name(settings: TrainStageConfig) -> str:
    """The section of the configuration that has the settings of a phase."""
    return "finetune" if isinstance(settings, FinetuneConfig) else "pretrain"


def count_warmup_steps(settings: TrainStageConfig, *, num_steps: int) -> int:
    """The steps of the warm-up of a phase: a share of all, so that a small log gets past it."""
    return min(settings.warmup_steps, round(settings.warmup_share * num_steps))


def result_path(phase: str) -> str:
    return f"state/{phase}/result.json"


class Buckets:
    """The bucket files of a run, the last few kept in memory.

    `known`: the items whose events are looked at, [V]; None: all.
    """

    def __init__(self, run: Storage, keep: int, known: npt.NDArray[np.bool_] | None = None) -> None:
        self._run, self._known = run, known
        self.load = lru_cache(maxsize=keep)(self._load)

    def _load(self, bucket: int) -> Flat:
        table = self._run.read_table(f"sequences/{bucket_name(bucket)}")
        return only_items(flatten(table), self._known)


def read_ahead(reads: Sequence[Callable[[], T]]) -> Iterator[T]:
    """What each of some functions gives, in order; a thread calls the next one in the meantime."""
    with ThreadPoolExecutor(1) as thread:
        coming: list[Future[T]] = []
        for number in range(len(reads)):
            coming = coming or [thread.submit(reads[number])]
            found = coming.pop().result()
            coming = [thread.submit(read) for read in reads[number + 1 : number + 2]]
            yield found


def taking_part(
    job: Job, phase: Phase, vocab: pa.Table, *, worker: Worker
) -> npt.NDArray[np.bool_] | None:
    """The items with enough events before the end of a phase, [V]; None: all with any event.

    Later events must not decide what is trained on and measured.
    """
    if job.min_item_count == 1:
        return None
    column = job.counted.get(phase.trained_before)
    if column is not None:
        return np.asarray(vocab[column].to_numpy() >= job.min_item_count)
    counts = np.zeros(vocab.num_rows, np.int64)
    buckets = Buckets(job.run, 1)
    for flat in map(buckets.load, worker.part_of(job.num_buckets)):
        earlier = flat.items[flat.times < phase.trained_before]
        counts += np.bincount(earlier, minlength=len(counts))
    worker.add_up(counts)
    return counts >= job.min_item_count
