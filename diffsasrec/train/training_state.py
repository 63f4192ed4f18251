"""The files of a phase: the weights that it starts from, what it saves while it trains, its output.

It saves its state, to resume from, and its losses, for people.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from torch import Tensor

from diffsasrec.files.storage import Storage, to_json
from diffsasrec.model.checkpoint import (
    is_finite,
    load_checkpoint,
    parse_tensors,
    save_checkpoint,
    save_tensors,
)
from diffsasrec.model.mix import Mix
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.epochs import stream_seed
from diffsasrec.train.optimizer import Groups
from diffsasrec.train.phases import Job, Phase, result_path
from diffsasrec.train.ranks import Worker


def initial_model(job: Job, phase: Phase, vocab: pa.Table) -> SequenceModel:
    """The model that a phase starts with, which has seen nothing behind its end."""
    seed = stream_seed(job.seed, "init")
    model = SequenceModel(job.model, vocab.num_rows, seed=seed, types=job.types)
    if phase.init_from:
        start = load_checkpoint(job.run.sub(phase.init_from))
        # what is measured must come from weights that saw nothing later
        assert start.trained_before <= phase.trained_before, phase
        model.load_state_dict(start.model.state_dict())
        Mix.of(start.model).put_in(model)
    return model


@dataclass
class State:
    """What a phase needs to resume, besides its tensors."""

    step: int = 0  # taken so far
    epoch: int = 0  # finished so far
    loss_sum: float = 0.0  # over the steps of the unfinished epoch
    best: float = -1.0
    best_epoch: int = 0
    state_weight: float = 1.0  # that of the best
    ranker_weight: float = 0.0  # likewise
    bad_epochs: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)  # one per finished epoch

    def note_epoch(self, ndcg: float, mix: Mix, *, patience: int | None) -> bool:
        """Notes what the finished epoch is worth; whether its weights are to be kept."""
        is_best = ndcg > self.best
        self.bad_epochs += 1
        if is_best:
            self.best, self.best_epoch, self.bad_epochs = ndcg, self.epoch, 0
            self.state_weight, self.ranker_weight = mix.state, mix.ranker
        self.stopped = patience is not None and self.bad_epochs >= patience
        return is_best


class SavedStates:
    """The states that all attempts at a phase have saved, one file each.

    Attributes:
        ignored: the paths of files that no training can resume from, each with the reason.
    """

    def __init__(self, run: Storage, phase: str, *, attempt: str, worker: Worker) -> None:
        self._run, self._worker = run, worker
        self._directory = f"state/{phase}"
        self._of_attempt = f"{self._directory}/{attempt}"
        self.ignored: list[str] = []

    def save(self, state: State, groups: Groups) -> None:
        tensors = {
            f"{kind}.{name}": tensor
            for kind, group in groups.items()
            for name, tensor in group.items()
        }
        path = f"{self._of_attempt}/step-{state.step:09d}.safetensors"
        save_tensors(self._run, path, tensors, {"state": json.dumps(asdict(state))})
        # the previous one stays: another process may be reading it
        self._run.delete([info.path for info in self._run.list(self._of_attempt)][:-2])

    def load(self) -> tuple[State, Groups] | None:
        """The newest state that every rank can read; None if there is none.

        A parallel attempt may save and delete at any moment: rank 0 names a file, and if it is gone
        meanwhile for any rank, rank 0 names another one.
        """
        refused: set[str] = set()
        while True:
            path = self._worker.from_rank_0(partial(self._newest, refused))
            if path is None:
                return None
            loaded = self._read(path)
            everywhere = self._worker.sum([float(loaded is not None)])
            if loaded is not None and everywhere[0] == self._worker.world_size:
                return loaded
            refused.add(path)

    def _newest(self, refused: set[str]) -> str | None:
        saved = [info.path for info in self._run.list(self._directory)]
        saved = [path for path in saved if "/step-" in path and path not in refused]
        return max(saved, key=lambda path: path.rpartition("/step-")[2], default=None)

    def _read(self, path: str) -> tuple[State, Groups] | None:
        """What a file holds; None if it is gone, or no training can resume from it."""
        try:
            tensors, metadata = parse_tensors(self._run.read_bytes(path))
            state = State(**json.loads(metadata["state"]))
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, TypeError, KeyError):
            self.ignored.append(f"{path}: it is damaged")
            return None
        groups: Groups = {}
        for name, tensor in tensors.items():
            if not is_finite(tensor):
                self.ignored.append(f"{path}: {name} has values that are no finite numbers")
                return None
            kind, _, parameter_name = name.partition(".")
            groups.setdefault(kind, {})[parameter_name] = tensor.to(self._worker.device)
        return state, groups


def write_scalars(run: Storage, phase: str, history: list[dict[str, float]]) -> None:
    """Writes TensorBoard's file of a phase, all of it again after every epoch."""
    import tensorboardX  # only rank 0 needs it

    with tempfile.TemporaryDirectory() as directory:
        with tensorboardX.SummaryWriter(directory) as writer:
            for record in history:
                for key in record.keys() - {"epoch", "step"}:
                    writer.add_scalar(f"{phase}/{key}", record[key], record["step"])
        (file,) = os.listdir(directory)
        with open(os.path.join(directory, file), "rb") as events:
            run.write_bytes(f"tensorboard/{phase}/events.out.tfevents.0", events.read())


def write_output(
    job: Job,
    phase: Phase,
    *,
    weights: dict[str, Tensor],
    mix: Mix,
    vocab: pa.Table,
    counts_V: npt.NDArray[np.int64],
    result: dict[str, Any],
) -> None:
    """The checkpoint of a phase, and then result.json, with which it is done.

    Args:
        counts_V: how often each item occurs in what was trained on.
    """
    save_checkpoint(
        job.run.sub(phase.output),
        weights={name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        config=job.model,
        vocab=vocab,
        counts=counts_V,
        trained_before=phase.trained_before,
        mix=mix,
        types=job.types,
    )
    job.run.create(result_path(phase.name), to_json(result))
