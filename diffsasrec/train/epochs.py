"""The training set of a phase, and which examples of it form which step of an epoch.

A step is the same for any number of workers, and each reads only what its part of it needs. The
buckets that are read together are the shards of their batches: each shuffles its own examples, and
gives every batch its share of them. So any worker knows from the numbers of examples alone what is
in a batch and whose it is, and shards of any sizes last as long as each other.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diffsasrec.counters.popular import Popular, popular_items
from diffsasrec.counters.similar import NEWEST, Similar, joined, newest
from diffsasrec.counters.tables import SimilarAt, sampled_buckets
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import trend_counts, trend_features
from diffsasrec.model.softmax import Negatives, Proposal
from diffsasrec.sequences.histories import Flat, Histories
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import (
    Events,
    Examples,
    Ints,
    Part,
    batch_times,
    bucket_examples,
    trained_counts,
)
from diffsasrec.train.phases import Buckets, Job, Phase, Tell, read_ahead, taking_part
from diffsasrec.train.ranks import Worker, places_of_step, share_of


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
    """The buckets that are read together, in the order of this epoch; empty ones left out.

    Inside a group they are in their own order: if there is one group, a rank reads the same ones in
    every epoch.
    """
    rng = np.random.default_rng(stream_seed(seed, phase, "buckets", epoch))
    order = rng.permutation(len(num_examples))
    order = order[num_examples[order] > 0]
    starts = range(0, len(order), buckets_in_memory)
    return [np.sort(order[start : start + buckets_in_memory]) for start in starts]


def group_steps(group: Ints, num_examples: Ints, *, batch_size: int) -> int:
    """The steps of a group. Their batches have all the same size, or one example less."""
    return -(-int(num_examples[group].sum()) // batch_size)


def shuffled(num: int, *, seed: int, phase: str, at: tuple[int, int]) -> Ints:
    """The examples 0..num-1 of a bucket in the order of an epoch; `at` is (epoch, bucket)."""
    rng = np.random.default_rng(stream_seed(seed, phase, "examples", at))
    return rng.permutation(num)


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

    def __init__(self, job: Job, phase: Phase, vocab: pa.Table, *, worker: Worker) -> None:
        self._job, self._phase, self._worker = job, phase, worker
        known_V = taking_part(job, phase, vocab, worker=worker)
        # more of them come by in another order in every epoch: one that is kept is in the way
        keep = job.train.buckets_in_memory
        self.buckets = Buckets(job.run, keep if job.num_buckets <= keep else 1, known_V)
        self.query_times = batch_times(phase, job.time_quantiles)
        self._survey(vocab.num_rows)
        in_all = int(self.num_examples.sum())
        self.batch_size = phase.settings.batch_size or suited_batch_size(in_all)

    def _survey(self, num_items: int) -> None:
        """Counts what is in all buckets: each rank reads a part of them once, and tells it."""
        counts = self._trend_counts(Histories.nothing(self._job.types), num_items)
        self.counts_V, num_buckets = np.zeros(num_items, np.int64), self._job.num_buckets
        self.num_examples, num_users = np.zeros((2, num_buckets), np.int64)
        for bucket in self._worker.part_of(num_buckets):
            flat = self.buckets.load(bucket)
            counts += self._trend_counts(flat.histories, num_items)
            self.counts_V += trained_counts(
                flat, self._phase, min_events=self._job.min_user_events, num_items=num_items
            )
            self.num_examples[bucket] = len(self._examples(flat))
            num_users[bucket] = len(flat.offsets) - 1
        for summed in (counts, self.counts_V, self.num_examples, num_users):
            self._worker.add_up(summed)
        self._num_users = int(num_users.sum())
        self.trends_QVF = trend_features(counts)

    def _trend_counts(self, histories: Histories, num_items: int) -> npt.NDArray[Any]:
        return trend_counts(
            histories.items,
            histories.times,
            histories.offsets,
            query_times=np.r_[self.query_times, self._phase.trained_before],
            num_items=num_items,
            weights=histories.weights(),
        )

    def similar_tables(self, tell: Tell) -> Callable[[int], Similar]:
        """The tables as of each batch time and, last, as of the end, if it is measured there.

        The ranks share the making of them.
        """
        moments, name, worker = self.query_times, self._phase.name, self._worker
        if self._phase.validate_before is not None:
            moments = np.r_[moments, self._phase.trained_before]
        similar = SimilarAt(self._job.run, f"state/{name}/similar", moments)
        sample = cache(self._sample)  # read once, if at all
        similar.make(
            lambda before: joined(newest(some.before(before), NEWEST) for some in sample()),
            num_items=len(self.counts_V),
            with_tastes=self._job.model.scores_nearest,
            rank=worker.rank,
            world_size=worker.world_size,
            tell=partial(tell, f"{name}, similar items") if worker.rank == 0 else lambda *_: None,
        )
        worker.wait_for_all()
        return similar.at

    def _sample(self) -> list[Histories]:
        """The events of the users whom tables of similar items count, by bucket."""
        chosen = sampled_buckets(self._job.num_buckets, self._num_users)
        return [self.buckets.load(bucket).histories for bucket in chosen]

    def num_steps(self, epoch: int) -> int:
        return sum(self._group_steps(group) for group in self._groups(epoch))

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[tuple[Events, Part]]:
        """What this rank has of the global batches of an epoch, from its step `first` on: flat
        events, and the examples in them.
        """
        groups = []
        for group in self._groups(epoch):
            num_steps = self._group_steps(group)
            if first < num_steps:
                groups.append((group, range(first, num_steps)))
            first = max(first - num_steps, 0)
        loaded = read_ahead([partial(self._load, group, epoch) for group, _ in groups])
        for (group, steps), (events, examples, places) in zip(groups, loaded, strict=True):
            in_all = int(self.num_examples[group].sum())
            for step in steps:
                mine = places_of_step(places, step=step, num_steps=steps.stop)
                num_rows = len(range(step, in_all, steps.stop))
                rows = mine // steps.stop
                yield events, Part.of(examples, mine - places.start, rows=rows, num_rows=num_rows)

    def _load(self, group: Ints, epoch: int) -> tuple[Events, Examples, range]:
        """What this rank reads of a group: the events of some buckets, and its examples in them in
        the order of their places; any one if it has none.
        """
        num_examples, worker = self.num_examples[group], self._worker
        share = share_of(num_examples, rank=worker.rank, world_size=worker.world_size)
        flats = [self.buckets.load(int(group[number])) for number, _ in share.parts]
        shift, parts = 0, []
        for (number, own), flat in zip(share.parts, flats, strict=True):
            order = shuffled(
                int(num_examples[number]),
                seed=self._job.seed,
                phase=self._phase.name,
                at=(epoch, int(group[number])),
            )
            chosen = order[own] if len(share.places) else order[:1]
            parts.append(self._examples(flat).take(chosen).shifted(shift))
            shift += len(flat.items)
        return Events.of(flats), Examples.concat(parts), share.places

    def _group_steps(self, group: Ints) -> int:
        return group_steps(group, self.num_examples, batch_size=self.batch_size)

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
        self._popular = cache(self._popular_at) if job.model.ranks else None
        counts_V = torch.from_numpy(data.counts_V)
        num_candidates = int((counts_V > 0).sum())
        num = job.train.num_negatives
        if num is None:
            at_batch_times = len(data.query_times) > 0
            num = suited_num_negatives(num_candidates, at_batch_times=at_batch_times)
        self.num_negatives = num if num < num_candidates else 0
        self._proposal = Proposal.of(counts_V) if self.num_negatives else None

    def of_step(self, step: int, events: Events, part: Part) -> tuple[Batch, Negatives | None]:
        """The rows of this rank of a global batch, masked, and the negatives, on its device."""
        seed = stream_seed(self._job.seed, self._phase.name, "masks", step)
        generator = torch.Generator().manual_seed(seed)
        batch = make_batch(
            events,
            part,
            query_times=self._data.query_times,
            model=self._job.model,
            objective=self._phase.settings.objective,
            generator=generator,
            filter_seen=self._job.filter_seen,
            similar=self._similar,
            popular=self._popular,
        )
        mine = batch.num_examples, batch.num_scored, batch.num_maskable
        examples, scored, maskable = map(int, self._worker.sum([*mine]))
        batch = replace(batch, num_examples=examples, num_scored=scored, num_maskable=maskable)
        return batch.to(self._worker.device), self._negatives(generator)

    def _popular_at(self, query: int) -> Popular:
        return popular_items(self._data.trends_QVF[query])

    def _negatives(self, generator: torch.Generator) -> Negatives | None:
        if self._proposal is None:
            return None
        return self._proposal.draw(self.num_negatives, generator).to(self._worker.device)
