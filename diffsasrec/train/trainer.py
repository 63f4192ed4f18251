"""The training loop: one phase on one worker of a DDP group. Nothing here knows Ray.

The state of a phase (weights, their moving average, the optimizer, patience, best weights, step) is
saved to the run directory every so many steps, one file per save and attempt. A restarted worker or
a rerun of the night continues from the newest file of any attempt. Generators are seeded per step,
so that none has to be saved.
"""

import json
from dataclasses import replace
from functools import partial

import torch

from diffsasrec.config.training import FinetuneConfig
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.memory import is_out_of_memory, keep_freed_memory
from diffsasrec.train.epochs import StepInputs, TrainingSet, stream_seed
from diffsasrec.train.examples import Events, Part
from diffsasrec.train.optimizer import updater_of
from diffsasrec.train.phases import Job, Phase, Tell, result_path, section_name
from diffsasrec.train.ranks import Worker
from diffsasrec.train.training_state import (
    SavedStates,
    State,
    initial_model,
    write_output,
    write_scalars,
)
from diffsasrec.train.validation import Judge


class PhaseTrainer:
    """One phase on one worker: its epochs, its steps, and when what is saved."""

    def __init__(self, job: Job, phase: Phase, *, worker: Worker, tell: Tell) -> None:
        self.job, self.phase, self.settings = job, phase, phase.settings
        self.worker, self.tell = worker, tell
        self.vocab = job.run.read_tables("vocab")
        self.data = data = TrainingSet(job, phase, self.vocab, worker=worker)
        similar = data.similar_tables(tell) if job.model.scores_similar else None
        self.inputs = StepInputs(job, phase, data, worker=worker, similar=similar)
        self.judge = Judge(job, phase, data, worker=worker, similar=similar)
        self.num_steps = [data.num_steps(epoch) for epoch in range(self.settings.epochs)]
        self.model = initial_model(job, phase, self.vocab).to(worker.device)
        self.updater = updater_of(
            job,
            phase,
            self.model,
            data,
            num_steps=sum(self.num_steps),
            world_size=worker.world_size,
            num_negatives=self.inputs.num_negatives,
        )
        self.state = State()
        self.saved = SavedStates(job.run, phase.name, attempt=job.attempt, worker=worker)
        self._resume()

    def _resume(self) -> None:
        """Continues from the newest state of any attempt, if there is one."""
        if (loaded := self.saved.load()) is not None:
            self.state, groups = loaded
            self.judge.best_weights = groups.pop("best", {})
            self.updater.load(groups, number=self.state.step)

    def run(self) -> None:
        """Trains to the end of the phase and writes its checkpoint and result.json."""
        steps = self.num_steps
        for epoch in range(self.state.epoch, self.settings.epochs):
            if self.state.stopped:
                break
            before = sum(steps[:epoch])
            for events, part in self.data.batches(epoch, first=self.state.step - before):
                self._step(events, part)
                self._after_step(self.state.step - before, sum(steps))
            self._finish_epoch(steps[epoch])
        self._save_state()
        # a parallel attempt may have been faster; then its checkpoint counts
        if self.worker.rank == 0 and not self.job.run.exists(result_path(self.phase.name)):
            self._write_output()

    def _step(self, events: Events, part: Part) -> None:
        state = self.state
        batch, negatives = self.inputs.of_step(state.step, events, part)
        # dropout has a stream of its own per rank and step
        stream = self.job.seed, self.phase.name, "dropout", state.step, self.worker.rank
        torch.manual_seed(stream_seed(*stream))
        state.loss_sum += self.updater.step(batch, negatives, number=state.step)
        state.step += 1

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
        if self.judge.is_asked:
            self._settle()  # ranks of nan are meaningless
            record |= self.judge.after_epoch(self.model, self.updater.average, state)
        state.history.append(record)
        if self.worker.rank == 0:
            write_scalars(self.job.run, self.phase.name, state.history)

    def _settle(self) -> None:
        self.updater.settle()
        self.updater.check_finite(step=self.state.step)

    def _save_state(self) -> None:
        self._settle()
        if self.worker.rank == 0:
            best = self.judge.best_weights
            self.saved.save(self.state, {**self.updater.state(), "best": best})

    def _write_output(self) -> None:
        state, mix = self.state, self.judge.mix(self.model, self.state)
        result = {
            "epochs": state.best_epoch or state.epoch,
            "state_weight": mix.state,
            "ranker_weight": mix.ranker,
            "steps": state.step,
            "examples": int(self.data.num_examples.sum()),
            **self.updater.sent_bytes(steps=state.step),
            "history": state.history,
        }
        if self.saved.ignored:
            result["ignored_states"] = self.saved.ignored
        write_output(
            self.job,
            self.phase,
            weights=self.judge.best_weights or self.updater.average,
            mix=mix,
            vocab=self.vocab,
            counts_V=self.data.counts_V,
            result=result,
        )


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
        selected |= {key: result[key] for key in ("state_weight", "ranker_weight")}
    return replace(phase, settings=phase.settings.model_copy(update=selected))
