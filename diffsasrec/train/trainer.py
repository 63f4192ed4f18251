"""The training loop: one phase on one worker of a DDP group. Nothing here knows Ray.

The state of a phase (weights, their moving average, the optimizer, patience, best weights, step) is
saved to the run directory every so many steps, one file per save and attempt; whoever starts the
phase again, a restarted worker or a rerun of the night, continues from the newest file of any
attempt. Generators are seeded per step, so that none has to be saved.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from safetensors import SafetensorError
from torch import Tensor

from diffsasrec.errors import ConfigError
from diffsasrec.evaluate.metrics import count_ranks, rank_metrics
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.memory import is_out_of_memory, keep_freed_memory
from diffsasrec.model.checkpoint import (
    is_finite,
    load_checkpoint,
    parse_tensors,
    save_checkpoint,
    save_tensors,
)
from diffsasrec.model.features import event_gaps, trend_counts, trend_features
from diffsasrec.model.objective import Objective
from diffsasrec.model.softmax import Negatives, draw_negatives
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Flat
from diffsasrec.train.batches import make_batch
from diffsasrec.train.epochs import (
    epoch_groups,
    epoch_steps,
    group_batches,
    stream_seed,
    suited_batch_size,
    suited_num_negatives,
)
from diffsasrec.train.examples import Events, Examples, batch_times, bucket_examples, trained_counts
from diffsasrec.train.optimizer import (
    ROWS_ALONE,
    Groups,
    Updater,
    count_warmup_steps,
    section_name,
    sum_over_ranks,
)
from diffsasrec.train.phases import Buckets, Job, Phase, result_path, taking_part
from diffsasrec.train.ranks import from_rank_0
from diffsasrec.train.validation import validation_ranks

Tell = Callable[[str, int, int, str], None]  # phase, steps taken, all steps, note


@dataclass
class State:
    """What a phase needs to go on, besides its tensors."""

    step: int = 0  # taken so far
    epoch: int = 0  # finished so far
    loss_sum: float = 0.0  # over the steps of the unfinished epoch
    best: float = -1.0
    best_epoch: int = 0
    bad_epochs: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)  # one per finished epoch


class PhaseTrainer:
    """One phase on one worker of `world_size`; the process group exists when there are several."""

    def __init__(
        self,
        job: Job,
        phase: Phase,
        *,
        device: torch.device,
        rank: int,
        world_size: int,
        tell: Tell,
    ) -> None:
        self.job, self.phase, self.settings = job, phase, phase.settings
        self.device, self.rank, self.world_size, self.tell = device, rank, world_size, tell
        self.vocab = job.run.read_tables("vocab")
        known_V = taking_part(job, phase, self.vocab)
        self.buckets = Buckets(job.run, job.train.buckets_in_memory, known_V)
        self.counts_V = np.zeros(self.vocab.num_rows, np.int64)
        num_items = self.vocab.num_rows
        self.query_times = batch_times(phase, job.time_quantiles)
        # the last table is as of the end of what is trained on: for measuring, and for pretraining
        moments = np.r_[self.query_times, phase.trained_before]
        counts: Any = 0
        num_examples = []
        for bucket in range(job.num_buckets):
            flat = self.buckets.load(bucket)
            counts += trend_counts(
                flat.items, flat.times, flat.offsets, query_times=moments, num_items=num_items
            )
            self.counts_V += trained_counts(
                flat, phase, min_events=job.min_user_events, num_items=len(self.counts_V)
            )
            num_examples.append(len(self._examples(flat)))
        self.num_examples = np.array(num_examples, np.int64)
        self.batch_size = self.settings.batch_size or suited_batch_size(sum(num_examples))
        candidates_V = torch.from_numpy(self.counts_V > 0)
        self.num_negatives = self._num_negatives(int(candidates_V.sum()))
        self.model = self._initial_model().to(device)
        self.trends_QVF = trend_features(counts)
        tables_QVF = self.trends_QVF[:-1]
        if not len(self.query_times):
            tables_QVF = self.trends_QVF[-1:, :, :1]
        objective = Objective(
            self.model, candidates_V, torch.from_numpy(tables_QVF), filter_seen=job.filter_seen
        ).to(device)
        by_rows = self.num_negatives > 0 and num_items > ROWS_ALONE
        self.num_steps = [self._num_steps(epoch) for epoch in range(self.settings.epochs)]
        self.updater = Updater(
            objective,
            self.settings,
            phase=phase.name,
            warmup_steps=count_warmup_steps(self.settings, num_steps=sum(self.num_steps)),
            world_size=world_size,
            by_rows=by_rows,
        )
        self.best_weights: dict[str, Tensor] = {}
        self.state = State()
        self.ignored_states: list[str] = []  # paths, each with the reason
        self._load_state()

    def _initial_model(self) -> SequenceModel:
        seed = stream_seed(self.job.seed, "init")
        model = SequenceModel(self.job.model, self.vocab.num_rows, seed=seed)
        if self.phase.init_from:
            start = load_checkpoint(self.job.run.sub(self.phase.init_from))
            # what is measured must come from weights that saw nothing later
            assert start.trained_before <= self.phase.trained_before, self.phase
            model.load_state_dict(start.model.state_dict())
        return model

    def _examples(self, flat: Flat) -> Examples:
        return bucket_examples(
            flat,
            self.phase,
            self.job.model,
            query_times=self.query_times,
            min_events=self.job.min_user_events,
        )

    def run(self) -> None:
        """Trains to the end of the phase and writes its checkpoint and result.json."""
        steps = self.num_steps
        for epoch in range(self.state.epoch, self.settings.epochs):
            if self.state.stopped:
                break
            for step, (events, examples) in enumerate(self._epoch(epoch), sum(steps[:epoch])):
                if step >= self.state.step:
                    self._step(events, examples)
                    self._after_step(step - sum(steps[:epoch]) + 1, sum(steps))
            self._finish_epoch(steps[epoch])
        self._save_state()
        # an attempt beside this one may have been faster; its checkpoint is the phase's
        if self.rank == 0 and not self.job.run.exists(result_path(self.phase.name)):
            self._write_output()

    def _groups(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        return epoch_groups(
            self.num_examples,
            seed=self.job.seed,
            phase=self.phase.name,
            epoch=epoch,
            buckets_in_memory=self.job.train.buckets_in_memory,
        )

    def _num_steps(self, epoch: int) -> int:
        groups = self._groups(epoch)
        return epoch_steps(groups, self.num_examples, batch_size=self.batch_size)

    def _epoch(self, epoch: int) -> Iterator[tuple[Events, Examples]]:
        """The global batches of an epoch: flat events, and the examples in them."""
        for number, group in enumerate(self._groups(epoch)):
            flats = [self.buckets.load(int(bucket)) for bucket in group]
            shifts = np.cumsum([0, *(len(flat.items) for flat in flats[:-1])])
            parts = [
                self._examples(flat).shifted(int(shift))
                for flat, shift in zip(flats, shifts, strict=True)
            ]
            events = Events(
                np.concatenate([flat.items for flat in flats]),
                np.concatenate([flat.times for flat in flats]),
                np.concatenate([event_gaps(flat.times, flat.offsets) for flat in flats]),
            )
            examples = Examples.concat(parts)
            for chosen in group_batches(
                len(examples),
                batch_size=self.batch_size,
                seed=self.job.seed,
                phase=self.phase.name,
                at=(epoch, number),
            ):
                yield events, examples.take(chosen)

    def _step(self, events: Events, examples: Examples) -> None:
        state, settings = self.state, self.settings
        where = (self.job.seed, self.phase.name)
        generator = torch.Generator().manual_seed(stream_seed(*where, "masks", state.step))
        batch = make_batch(
            events,
            examples,
            query_times=self.query_times,
            model=self.job.model,
            objective=settings.objective,
            generator=generator,
            rank=self.rank,
            world_size=self.world_size,
        ).to(self.device)
        negatives = self._negatives(generator)
        # dropout has a stream of its own per rank and step
        torch.manual_seed(stream_seed(*where, "dropout", state.step, self.rank))
        state.loss_sum += self.updater.step(batch, negatives, number=state.step)
        state.step += 1

    def _num_negatives(self, num_candidates: int) -> int:
        """0: the softmax takes all items."""
        num = self.job.train.num_negatives
        if num is None:
            num = suited_num_negatives(num_candidates, at_batch_times=len(self.query_times) > 0)
        return num if num < num_candidates else 0

    def _negatives(self, generator: torch.Generator) -> Negatives | None:
        if not self.num_negatives:
            return None
        counts_V = torch.from_numpy(self.counts_V)
        negatives = draw_negatives(counts_V, self.num_negatives, generator)
        return Negatives(*(tensor.to(self.device) for tensor in vars(negatives).values()))

    def _after_step(self, step_of_epoch: int, total: int) -> None:
        state = self.state
        if self.rank == 0:
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
            value = record["NDCG@10"] = self._validate(self.phase.validate_before)
            state.bad_epochs += 1
            if value > state.best:
                state.best, state.best_epoch, state.bad_epochs = value, state.epoch, 0
                average = self.updater.average
                self.best_weights = {name: t.clone() for name, t in average.items()}
            patience = self.settings.patience
            state.stopped = patience is not None and state.bad_epochs >= patience
        state.history.append(record)
        if self.rank == 0:
            self._write_scalars()

    @torch.no_grad()
    def _validate(self, before: int) -> float:
        """NDCG@10 on the second time cut, with the averaged weights, over all ranks' buckets."""
        self.updater.settle()
        self.updater.check_finite(step=self.state.step)  # ranks of nan mean nothing
        current = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.model.load_state_dict(self.updater.average)
        self.model.eval()
        ranks = [np.zeros(0, np.int64)]
        for bucket in range(self.rank, self.job.num_buckets, self.world_size):
            ranks.append(
                validation_ranks(
                    self.model,
                    self.buckets.load(bucket),
                    cut=self.phase.trained_before,
                    before=before,
                    trends=self.trends_QVF[-1],
                    known=self.counts_V > 0,
                    filter_seen=self.job.filter_seen,
                )
            )
        self.model.load_state_dict(current)
        counts = count_ranks(np.concatenate(ranks), k=10)
        summed = sum_over_ranks(
            [float(count) for count in counts], device=self.device, world_size=self.world_size
        )
        return rank_metrics(np.array(summed), k=10)["NDCG@10"]

    def _write_scalars(self) -> None:
        """TensorBoard's file, whole again after every epoch."""
        import tensorboardX  # two seconds, and only here

        with tempfile.TemporaryDirectory() as directory:
            with tensorboardX.SummaryWriter(directory) as writer:
                for record in self.state.history:
                    for key in record.keys() - {"epoch", "step"}:
                        writer.add_scalar(f"{self.phase.name}/{key}", record[key], record["step"])
            (file,) = os.listdir(directory)
            with open(os.path.join(directory, file), "rb") as events:
                self.job.run.write_bytes(
                    f"tensorboard/{self.phase.name}/events.out.tfevents.0", events.read()
                )

    def _write_output(self) -> None:
        run, name = self.job.run, self.phase.name
        weights = self.best_weights or self.updater.average
        save_checkpoint(
            run.sub(self.phase.output),
            weights={name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
            config=self.job.model,
            vocab=self.vocab,
            counts=self.counts_V,
            trained_before=self.phase.trained_before,
        )
        result = {
            "epochs": self.state.best_epoch or self.state.epoch,
            "steps": self.state.step,
            "examples": int(self.num_examples.sum()),
            **self.updater.sent_bytes(steps=self.state.step),
            "history": self.state.history,
        }
        if self.ignored_states:
            result["ignored_states"] = self.ignored_states
        run.create(result_path(name), to_json(result))

    def _save_state(self) -> None:
        self.updater.settle()
        self.updater.check_finite(step=self.state.step)
        if self.rank != 0:
            return
        groups = {**self.updater.state(), "best": self.best_weights}
        tensors = {
            f"{kind}.{name}": tensor
            for kind, group in groups.items()
            for name, tensor in group.items()
        }
        directory = f"state/{self.phase.name}/{self.job.attempt}"
        path = f"{directory}/step-{self.state.step:09d}.safetensors"
        state = {"state": json.dumps(asdict(self.state))}
        save_tensors(self.job.run, path, tensors, state)
        # the one before stays: a reader may be at it
        self.job.run.delete([info.path for info in self.job.run.list(directory)][:-2])

    def _newest_state(self, refused: set[str]) -> str | None:
        saved = [info.path for info in self.job.run.list(f"state/{self.phase.name}")]
        saved = [path for path in saved if "/step-" in path and path not in refused]
        return max(saved, key=lambda path: path.rpartition("/step-")[2], default=None)

    def _load_state(self) -> None:
        """Goes on from the newest file that all ranks can read, each for itself.

        An attempt beside this one may save and delete at any moment: rank 0 says which file, and
        where it is gone meanwhile for any rank, it says another one.
        """
        refused: set[str] = set()
        while True:
            newest = partial(self._newest_state, refused)
            path = from_rank_0(newest, self.rank, self.world_size)
            if path is None:
                return
            loaded = self._read_state(path)
            read = [float(loaded is not None)]
            everywhere = sum_over_ranks(read, device=self.device, world_size=self.world_size)
            if loaded is not None and everywhere[0] == self.world_size:
                break
            refused.add(path)
        self.state, groups = loaded
        self.best_weights = groups.pop("best", {})
        self.updater.load(groups, number=self.state.step)

    def _read_state(self, path: str) -> tuple[State, Groups] | None:
        """What a file holds; None where it is gone, or no training goes on from it."""
        try:
            tensors, metadata = parse_tensors(self.job.run.read_bytes(path))
            state = State(**json.loads(metadata["state"]))
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, TypeError, KeyError):
            self.ignored_states.append(f"{path}: it is damaged")
            return None
        groups: Groups = {}
        for name, tensor in tensors.items():
            if not is_finite(tensor):
                self.ignored_states.append(f"{path}: {name} has values that are no finite numbers")
                return None
            kind, _, parameter_name = name.partition(".")
            groups.setdefault(kind, {})[parameter_name] = tensor.to(self.device)
        return state, groups


def train_phases(
    job: Job,
    phases: tuple[Phase, ...],
    *,
    device: torch.device,
    rank: int,
    world_size: int,
    tell: Tell,
) -> None:
    """What one worker does; a phase whose result.json exists is done."""
    torch.set_num_threads(job.train.threads_per_worker)
    keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for phase in phases:
        is_done = partial(job.run.exists, result_path(phase.name))
        if not from_rank_0(is_done, rank, world_size):
            phase = _with_selected_epochs(job.run, phase)
            try:
                PhaseTrainer(
                    job, phase, device=device, rank=rank, world_size=world_size, tell=tell
                ).run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise _too_large(job, phase, device, error) from error
        if world_size > 1:
            torch.distributed.barrier()  # the next phase reads what rank 0 has written


def _too_large(job: Job, phase: Phase, device: torch.device, error: Exception) -> ConfigError:
    """What to make smaller: the same training would run out of memory on every retry."""
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


def _with_selected_epochs(run: Storage, phase: Phase) -> Phase:
    if not phase.epochs_from:
        return phase
    epochs = json.loads(run.read_bytes(result_path(phase.epochs_from)))["epochs"]
    return replace(phase, settings=phase.settings.model_copy(update={"epochs": epochs}))
