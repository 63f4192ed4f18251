"""The training loop: one phase on one worker of a DDP group. Nothing here knows Ray.

The state of a phase (weights, their moving average, the optimizer, patience, best weights, step) is
saved to the run directory every so many steps, one file per save and attempt. A restarted worker or
a rerun of the night continues from the newest file of any attempt. Generators are seeded per step,
so that none has to be saved.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from diffsasrec.config.training import FinetuneConfig
from diffsasrec.counters.similar import Similar
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.memory import is_out_of_memory, keep_freed_memory
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.model.objective import Objective
from diffsasrec.model.softmax import Negatives, Proposal
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.batches import make_batch
from diffsasrec.train.epochs import TrainingSet, stream_seed, suited_num_negatives
from diffsasrec.train.examples import Events, Examples
from diffsasrec.train.optimizer import ROWS_ALONE, Updater, count_warmup_steps, section_name
from diffsasrec.train.phases import Job, Phase, Tell, result_path
from diffsasrec.train.ranks import Worker
from diffsasrec.train.training_state import SavedStates, State, write_scalars
from diffsasrec.train.validation import (
    best_of,
    given_weight,
    validation_gains,
    validation_ndcg,
    weights_to_try,
)


class PhaseTrainer:
    """One phase on one worker."""

    def __init__(self, job: Job, phase: Phase, *, worker: Worker, tell: Tell) -> None:
        self.job, self.phase, self.settings = job, phase, phase.settings
        self.worker, self.tell = worker, tell
        self.vocab = job.run.read_tables("vocab")
        self.data = TrainingSet(job, phase, self.vocab)
        self.similar: Callable[[int], Similar] | None = None
        if job.model.scores_similar:
            self.similar = self.data.similar_tables(worker, tell)
        self.num_steps = [self.data.num_steps(epoch) for epoch in range(self.settings.epochs)]
        counts_V = torch.from_numpy(self.data.counts_V)
        self.num_negatives = self._num_negatives(int((counts_V > 0).sum()))
        self.proposal = Proposal.of(counts_V) if self.num_negatives else None
        self.model = self._initial_model().to(worker.device)
        self.updater = self._updater()
        self.best_weights: dict[str, Tensor] = {}
        self.state = State()
        self.saved = SavedStates(job.run, phase.name, attempt=job.attempt, worker=worker)
        self._resume()

    def _num_negatives(self, num_candidates: int) -> int:
        """0: the softmax takes all items."""
        num = self.job.train.num_negatives
        if num is None:
            at_batch_times = len(self.data.query_times) > 0
            num = suited_num_negatives(num_candidates, at_batch_times=at_batch_times)
        return num if num < num_candidates else 0

    def _initial_model(self) -> SequenceModel:
        seed = stream_seed(self.job.seed, "init")
        num_items, types = self.vocab.num_rows, self.job.types
        model = SequenceModel(self.job.model, num_items, seed=seed, types=types)
        if self.phase.init_from:
            start = load_checkpoint(self.job.run.sub(self.phase.init_from))
            # what is measured must come from weights that saw nothing later
            assert start.trained_before <= self.phase.trained_before, self.phase
            model.load_state_dict(start.model.state_dict())
            model.state_weight.copy_(start.model.state_weight)
        return model

    def _updater(self) -> Updater:
        tables_QVF = self.data.trends_QVF[:-1]
        if not len(self.data.query_times):  # only the popularity of all time
            tables_QVF = self.data.trends_QVF[-1:, :, :1]
        settings = self.settings
        finetune = settings if isinstance(settings, FinetuneConfig) else None
        objective = Objective(
            self.model,
            torch.from_numpy(self.data.counts_V > 0),
            torch.from_numpy(tables_QVF),
            filter_seen=self.job.filter_seen,
            state_dropout=finetune.state_dropout if finetune else 0.0,
            focus_k=finetune.focus_k if finetune else 0,
        ).to(self.worker.device)
        return Updater(
            objective,
            self.settings,
            phase=self.phase.name,
            warmup_steps=count_warmup_steps(self.settings, num_steps=sum(self.num_steps)),
            world_size=self.worker.world_size,
            by_rows=self.num_negatives > 0 and self.vocab.num_rows > ROWS_ALONE,
        )

    def _resume(self) -> None:
        """Continues from the newest state of any attempt, if there is one."""
        if (loaded := self.saved.load()) is not None:
            self.state, groups = loaded
            self.best_weights = groups.pop("best", {})
            self.updater.load(groups, number=self.state.step)

    def run(self) -> None:
        """Trains to the end of the phase and writes its checkpoint and result.json."""
        steps = self.num_steps
        for epoch in range(self.state.epoch, self.settings.epochs):
            if self.state.stopped:
                break
            batches = enumerate(self.data.batches(epoch), sum(steps[:epoch]))
            for step, (events, examples) in batches:
                if step >= self.state.step:
                    self._step(events, examples)
                    self._after_step(step - sum(steps[:epoch]) + 1, sum(steps))
            self._finish_epoch(steps[epoch])
        self._save_state()
        # a parallel attempt may have been faster; then its checkpoint counts
        if self.worker.rank == 0 and not self.job.run.exists(result_path(self.phase.name)):
            self._write_output()

    def _step(self, events: Events, examples: Examples) -> None:
        state, where = self.state, (self.job.seed, self.phase.name)
        generator = torch.Generator().manual_seed(stream_seed(*where, "masks", state.step))
        batch = make_batch(
            events,
            examples,
            query_times=self.data.query_times,
            model=self.job.model,
            objective=self.settings.objective,
            generator=generator,
            rank=self.worker.rank,
            world_size=self.worker.world_size,
            filter_seen=self.job.filter_seen,
            similar=self.similar,
        ).to(self.worker.device)
        negatives = self._negatives(generator)
        # dropout has a stream of its own per rank and step
        torch.manual_seed(stream_seed(*where, "dropout", state.step, self.worker.rank))
        state.loss_sum += self.updater.step(batch, negatives, number=state.step)
        state.step += 1

    def _negatives(self, generator: torch.Generator) -> Negatives | None:
        if self.proposal is None:
            return None
        return self.proposal.draw(self.num_negatives, generator).to(self.worker.device)

    def _after_step(self, step_of_epoch: int, total: int) -> None:
        state = self.state
        if self.worker.rank == 0:
            loss = state.loss_sum / step_of_epoch
            note = f", epoch {state.epoch + 1} of {self.settings.epochs}, loss {loss:.3f}"
            self.tell(self.phase.name, state.step, total, note)
        if state.step % self.settings.checkpoint_every_steps == 0:
            self._save_state()

    def _finish_epoch(self, num_steps: int) -> None:
        state = self.state
        state.epoch += 1
        record = {
            "epoch": state.epoch,
            "step": state.step,
            "loss": state.loss_sum / max(num_steps, 1),
        }
        state.loss_sum = 0.0
        if self.phase.validate_before is not None:
            self._judge(record, self._validate(self.phase.validate_before))
        state.history.append(record)
        if self.worker.rank == 0:
            write_scalars(self.job.run, self.phase.name, state.history)

    def _validate(self, before: int) -> dict[float, float]:
        """NDCG@10 on the second time cut by the weight of the state, with the averaged weights."""
        self._settle()  # ranks of nan are meaningless
        mine = range(self.worker.rank, self.job.num_buckets, self.worker.world_size)
        return validation_ndcg(
            self.model,
            self.updater.average,
            map(self.data.buckets.load, mine),
            state_weights=weights_to_try(self.settings, self.job.model),
            gains_in=partial(
                validation_gains,
                self.model,
                cut=self.phase.trained_before,
                before=before,
                trends=self.data.trends_QVF[-1],
                known=self.data.counts_V > 0,
                filter_seen=self.job.filter_seen,
                similar=self.similar and self.similar(len(self.data.query_times)),
            ),
            worker=self.worker,
        )

    def _judge(self, record: dict[str, float], ndcg_by_weight: dict[float, float]) -> None:
        """Keeps the best weights, and stops if they have been the best for too long."""
        record["state_weight"], record["NDCG@10"] = best_of(ndcg_by_weight)
        if self.state.note_epoch(
            record["NDCG@10"], record["state_weight"], patience=self.settings.patience
        ):
            self.best_weights = {name: t.clone() for name, t in self.updater.average.items()}

    def _settle(self) -> None:
        self.updater.settle()
        self.updater.check_finite(step=self.state.step)

    def _save_state(self) -> None:
        self._settle()
        if self.worker.rank == 0:
            self.saved.save(self.state, {**self.updater.state(), "best": self.best_weights})

    def _write_output(self) -> None:
        run, name = self.job.run, self.phase.name
        weights = self.best_weights or self.updater.average
        state_weight = self.state.state_weight
        if self.phase.validate_before is None:
            start = float(self.model.state_weight)
            state_weight = given_weight(self.settings, self.job.model, start=start)
        save_checkpoint(
            run.sub(self.phase.output),
            weights={name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
            config=self.job.model,
            vocab=self.vocab,
            counts=self.data.counts_V,
            trained_before=self.phase.trained_before,
            state_weight=state_weight,
            types=self.job.types,
        )
        result = {
            "epochs": self.state.best_epoch or self.state.epoch,
            "state_weight": state_weight,
            "steps": self.state.step,
            "examples": int(self.data.num_examples.sum()),
            **self.updater.sent_bytes(steps=self.state.step),
            "history": self.state.history,
        }
        if self.saved.ignored:
            result["ignored_states"] = self.saved.ignored
        run.create(result_path(name), to_json(result))


def train_phases(
    job: Job,
    phases: tuple[Phase, ...],
    *,
    worker: Worker,
    tell: Tell,
) -> None:
    """What one worker does; a phase whose result.json exists is done."""
    torch.set_num_threads(job.train.threads_per_worker)
    keep_freed_memory()
    if worker.device.type == "cuda":
        torch.cuda.set_device(worker.device)
    for phase in phases:
        is_done = partial(job.run.exists, result_path(phase.name))
        if not worker.from_rank_0(is_done):
            phase = _with_selected(job.run, phase)
            try:
                PhaseTrainer(job, phase, worker=worker, tell=tell).run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise _too_large(job, phase, worker.device, error) from error
        worker.wait_for_all()  # the next phase reads what rank 0 has written


def _too_large(job: Job, phase: Phase, device: torch.device, error: Exception) -> ConfigError:
    """Says what to make smaller: the same training would run out of memory on every retry."""
    section, size = section_name(phase.settings), phase.settings.batch_size
    batch = "null, by the number of examples" if size is None else size
    negatives = job.train.num_negatives
    return ConfigError(
        f"{phase.name}: the memory of {device} does not suffice ({str(error).splitlines()[0]}); "
        f"lower {section}.batch_size (it is {batch}), train.num_negatives (it is "
        f"{'null, by the catalogue' if negatives is None else negatives}), "
        f"model.max_seq_len={job.model.max_seq_len} or model.hidden_size={job.model.hidden_size}, "
        "or train on larger devices"
    )


def _with_selected(run: Storage, phase: Phase) -> Phase:
    """A phase with what another one has selected for it."""
    if not phase.epochs_from:
        return phase
    result = json.loads(run.read_bytes(result_path(phase.epochs_from)))
    selected = {"epochs": result["epochs"]}
    if isinstance(phase.settings, FinetuneConfig):
        selected["state_weight"] = result["state_weight"]
    return replace(phase, settings=phase.settings.model_copy(update=selected))
