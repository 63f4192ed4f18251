"""Sequences per second of pretraining: `jobs.benchmark train`."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from diffsasrec.config.training import TrainStageConfig
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import event_gaps
from diffsasrec.model.objective import Objective
from diffsasrec.model.softmax import Negatives, Proposal
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.batches import make_batch
from diffsasrec.train.epochs import suited_num_negatives
from diffsasrec.train.examples import Events, Part, window_examples
from diffsasrec.train.optimizer import ROWS_ALONE, Updater

from .measure import (
    SEED,
    made_once,
    median_seconds,
    model_config,
    random_histories,
    random_trends,
)
from .references import (
    plain_loss,
)


def train(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Sequences per second of pretraining, beside its encoder alone and a plain way."""
    task = _Pretraining(options)
    num_negatives = suited_num_negatives(options.items, at_batch_times=False)
    by_rows = num_negatives > 0 and options.items > ROWS_ALONE
    # the first is what the job does; each makes its model when it is first called
    makers = {"step": lambda: task.step(num_negatives, by_rows=by_rows)}
    if by_rows:
        makers["step over all rows"] = lambda: task.step(num_negatives, by_rows=False)
    makers |= {
        "encoder alone": lambda: task.updated_by(task.encoder),
        "plain": lambda: task.updated_by(task.plain),
    }
    if num_negatives:
        makers["step over all items"] = lambda: task.step(0, by_rows=False)
    if options.variants:
        makers = {name: makers[name] for name in options.variants.split(",")}
    variants = {name: made_once(make) for name, make in makers.items()}
    for name, seconds in median_seconds(variants, options.rounds, options.device):
        yield {"variant": name, "sequences_per_s": round(len(task.examples) / seconds, 2)}


class _Pretraining:
    """A batch of pretraining again and again, with masks of its own each time."""

    def __init__(self, options: argparse.Namespace) -> None:
        items, times, offsets = histories = random_histories(options)
        self.events = Events(items, times, event_gaps(times, offsets))
        self.device, self.num_items = torch.device(options.device), options.items
        self.config, self.settings = model_config(options, num_slots=10), TrainStageConfig()
        longest = options.max_len
        examples = window_examples(offsets, np.diff(offsets), max_seq_len=longest, min_events=2)
        self.examples = examples.take(np.arange(min(options.batch_size, len(examples))))
        counts_V = torch.from_numpy(np.bincount(items, minlength=options.items) + 1)
        self.proposal = Proposal.of(counts_V)
        self.popularity_VF = torch.from_numpy(random_trends(options, histories)[0, :, :1])
        self.generator = torch.Generator().manual_seed(SEED)

    def objective(self) -> Objective:
        model = SequenceModel(self.config, self.num_items, seed=SEED)
        candidates_V = torch.ones(self.num_items, dtype=torch.bool)
        objective = Objective(model, candidates_V, self.popularity_VF[None], filter_seen=True)
        return objective.to(self.device)

    def batch(self) -> Batch:
        return make_batch(
            self.events,
            Part.whole(self.examples),
            query_times=np.zeros(0, np.int64),
            model=self.config,
            objective=self.settings.objective,
            generator=self.generator,
            filter_seen=True,
        ).to(self.device)

    def negatives(self, num: int) -> Negatives | None:
        if not num:
            return None
        return self.proposal.draw(num, self.generator).to(self.device)

    def step(self, num_negatives: int, *, by_rows: bool) -> Callable[[], object]:
        """What the job does."""
        updater = Updater(
            self.objective(),
            self.settings,
            phase="benchmark",
            warmup_steps=0,
            world_size=1,
            by_rows=by_rows,
        )
        return lambda: updater.step(self.batch(), self.negatives(num_negatives), number=1000)

    def encoder(self, objective: Objective) -> Iterator[torch.Tensor]:
        yield objective.states(self.batch()).square().mean()

    def plain(self, objective: Objective) -> Iterator[torch.Tensor]:
        yield from plain_loss(
            objective.model, self.batch(), objective.trends_QVF[0], self.settings.objective
        )

    def updated_by(
        self, losses: Callable[[Objective], Iterator[torch.Tensor]]
    ) -> Callable[[], object]:
        """Gradients of the losses, and a step of AdamW."""
        objective, settings = self.objective(), self.settings
        optimizer = torch.optim.AdamW(objective.parameters(), lr=settings.learning_rate)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                for loss in losses(objective):
                    loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), settings.grad_clip)
            optimizer.step()

        return run
