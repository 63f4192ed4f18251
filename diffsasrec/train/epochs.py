"""The training set of a phase, and which examples of it form which step of an epoch.

A step is the same for any number of workers; each gets its part of the batch.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diffsasrec.counters.similar import NEWEST, Similar, joined, newest
from diffsasrec.counters.tables import SimilarAt, sampled_buckets
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import event_gaps, trend_counts, trend_features
from diffsasrec.model.softmax import Negatives, Proposal
from diffsasrec.sequences.histories import Flat, Histories
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import (
    Events,
    Examples,
    Ints,
    batch_times,
    bucket_examples,
    trained_counts,
)
from diffsasrec.train.phases import Buckets, Job, Phase, Tell, taking_part
from diffsasrec.train.ranks import Worker
from diffsasrec.typed_events import concat


def suited_batch_size(num_examples: int) -> int:
    """A power of two from 32 to 1024 that leaves 256 steps or more to an epoch of a large log.

    Training on small logs gains far more from many small steps: on a million film ratings two
    epochs in batches of 32 do what six in batches of 128 do.
    """
    return 2 ** min(max(int(np.log2(max(num_examples, 1) / 256)), 5), 10)


def suited_num_negatives(num_candidates: int, *, at_batch_times: bool) -> int:
    """How many negatives the softmax takes of a catalogue; 0: all items.

    Windows score a hundred states per sequence, batch times a few. So the largest catalogue for
    which a full softmax is affordable differs.
    """
    limit, some = (100_000, 8192) if at_batch_times else (5_000, 1024)
    return some if num_candidates > limit else 0


def stream_seed(*parts: object) -> int:
    """A seed from (seed, phase, step, ...): no generator state has to be kept."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def epoch_groups(
    num_examples: Ints, *, seed: int, phase: str, epoch: int, buckets_in_memory: int
) -> list[Ints]:
    """The buckets that are read together, in the order of this epoch; empty ones left out."""
    rng = np.random.default_rng(stream_seed(seed, phase, "buckets", epoch))
    order = rng.permutation(len(num_examples))
    order = order[num_examples[order] > 0]
    return [order[i : i + buckets_in_memory] for i in range(0, len(order), buckets_in_memory)]


def epoch_steps(groups: list[Ints], num_examples: Ints, *, batch_size: int) -> int:
    return sum(-(-int(num_examples[group].sum()) // batch_size) for group in groups)


def group_batches(
    num: int, *, batch_size: int, seed: int, phase: str, at: tuple[int, int]
) -> Iterator[Ints]:
    """The shuffled examples 0..num-1 of a group in batches; `at` is (epoch, group)."""
    rng = np.random.default_rng(stream_seed(seed, phase, "examples", at))
    order = rng.permutation(num)
    for start in range(0, num, batch_size):
        yield order[start : start + batch_size]


class TrainingSet:
    """What a phase trains on: the examples of every bucket, and the batches that they form.

    Attributes:
        buckets: the events of the items that take part.
        query_times: the simulated batch times, microseconds; none if it trains on windows.
        num_examples: of each bucket.
        counts_V: how often each item occurs in what is trained on.
        trends_QVF: the trends as of each batch time and, last, as of the end of what is trained on:
            for measuring, and for pretraining.
        batch_size: of the global batch, in examples.
    """

    def __init__(self, job: Job, phase: Phase, vocab: pa.Table) -> None:
        self._job, self._phase = job, phase
        known_V = taking_part(job, phase, vocab)
        self.buckets = Buckets(job.run, job.train.buckets_in_memory, known_V)
        self.query_times = batch_times(phase, job.time_quantiles)
        self._survey(vocab.num_rows)
        in_all = int(self.num_examples.sum())
        self.batch_size = phase.settings.batch_size or suited_batch_size(in_all)

    def _survey(self, num_items: int) -> None:
        """Reads all buckets once and counts what is in them."""
        moments = np.r_[self.query_times, self._phase.trained_before]
        self.counts_V = np.zeros(num_items, np.int64)
        counts: Any = 0
        num_examples, self._num_users = [], 0
        for bucket in range(self._job.num_buckets):
            flat = self.buckets.load(bucket)
            counts += trend_counts(
                flat.items,
                flat.times,
                flat.offsets,
                query_times=moments,
                num_items=num_items,
                weights=flat.histories.weights(),
            )
            self.counts_V += trained_counts(
                flat, self._phase, min_events=self._job.min_user_events, num_items=num_items
            )
            num_examples.append(len(self._examples(flat)))
            self._num_users += len(flat.offsets) - 1
        self.num_examples = np.array(num_examples, np.int64)
        self.trends_QVF = trend_features(counts)

    def similar_tables(self, worker: Worker, tell: Tell) -> Callable[[int], Similar]:
        """The tables as of each batch time and, last, as of the end, if it is measured there.

        The ranks share the making of them.
        """
        moments, name = self.query_times, self._phase.name
        if self._phase.validate_before is not None:
            moments = np.r_[moments, self._phase.trained_before]
        similar = SimilarAt(self._job.run, f"state/{name}/similar", moments)
        similar.make(
            self.past,
            num_items=len(self.counts_V),
            with_tastes=self._job.model.scores_nearest,
            rank=worker.rank,
            world_size=worker.world_size,
            tell=partial(tell, f"{name}, similar items") if worker.rank == 0 else lambda *_: None,
        )
        worker.wait_for_all()
        return similar.at

    def past(self, before: int) -> Histories:
        """The events before a time, of the users whom tables of similar items count."""
        chosen = sampled_buckets(self._job.num_buckets, self._num_users)
        loaded = (self.buckets.load(bucket).histories for bucket in chosen)
        return joined(newest(histories.before(before), NEWEST) for histories in loaded)

    def num_steps(self, epoch: int) -> int:
        groups = self._groups(epoch)
        return epoch_steps(groups, self.num_examples, batch_size=self.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Events, Examples]]:
        """The global batches of an epoch: flat events, and the examples in them."""
        for number, group in enumerate(self._groups(epoch)):
            events, examples = self._load([int(bucket) for bucket in group])
            for chosen in group_batches(
                len(examples),
                batch_size=self.batch_size,
                seed=self._job.seed,
                phase=self._phase.name,
                at=(epoch, number),
            ):
                yield events, examples.take(chosen)

    def _load(self, group: list[int]) -> tuple[Events, Examples]:
        """The events of some buckets one after another, and all examples in them."""
        flats = [self.buckets.load(bucket) for bucket in group]
        shifts = np.cumsum([0, *(len(flat.items) for flat in flats[:-1])])
        parts = [
            self._examples(flat).shifted(int(shift))
            for flat, shift in zip(flats, shifts, strict=True)
        ]
        events = Events(
            np.concatenate([flat.items for flat in flats]),
            np.concatenate([flat.times for flat in flats]),
            np.concatenate([event_gaps(flat.times, flat.offsets) for flat in flats]),
            concat([flat.types for flat in flats]),
        )
        return events, Examples.concat(parts)

    def _groups(self, epoch: int) -> list[Ints]:
        return epoch_groups(
            self.num_examples,
            seed=self._job.seed,
            phase=self._phase.name,
            epoch=epoch,
            buckets_in_memory=self._job.train.buckets_in_memory,
        )

    def _examples(self, flat: Flat) -> Examples:
        return bucket_examples(
            flat,
            self._phase,
            self._job.model,
            query_times=self.query_times,
            min_events=self._job.min_user_events,
        )


class StepInputs:
    """What the steps of a phase get on one rank.

    Attributes:
        num_negatives: of the softmax of a step; 0: it takes all items.
    """

    def __init__(
        self,
        job: Job,
        phase: Phase,
        data: TrainingSet,
        *,
        worker: Worker,
        similar: Callable[[int], Similar] | None,
    ) -> None:
        self._job, self._phase, self._data, self._worker = job, phase, data, worker
        self._similar = similar
        counts_V = torch.from_numpy(data.counts_V)
        num_candidates = int((counts_V > 0).sum())
        num = job.train.num_negatives
        if num is None:
            at_batch_times = len(data.query_times) > 0
            num = suited_num_negatives(num_candidates, at_batch_times=at_batch_times)
        self.num_negatives = num if num < num_candidates else 0
        self._proposal = Proposal.of(counts_V) if self.num_negatives else None

    def of_step(
        self, step: int, events: Events, examples: Examples
    ) -> tuple[Batch, Negatives | None]:
        """The rows of this rank of a global batch, masked, and the negatives, on its device."""
        seed = stream_seed(self._job.seed, self._phase.name, "masks", step)
        generator = torch.Generator().manual_seed(seed)
        batch = make_batch(
            events,
            examples,
            query_times=self._data.query_times,
            model=self._job.model,
            objective=self._phase.settings.objective,
            generator=generator,
            rank=self._worker.rank,
            world_size=self._worker.world_size,
            filter_seen=self._job.filter_seen,
            similar=self._similar,
        )
        return batch.to(self._worker.device), self._negatives(generator)

    def _negatives(self, generator: torch.Generator) -> Negatives | None:
        if self._proposal is None:
            return None
        return self._proposal.draw(self.num_negatives, generator).to(self._worker.device)
