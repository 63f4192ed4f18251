"""A step of training: gradients over all ranks, AdamW after a warm-up, a moving average."""

import math
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffsasrec.config.training import FinetuneConfig, TrainStageConfig
from diffsasrec.errors import ConfigError
from diffsasrec.model.batch import Batch, in_rows, occurring_items
from diffsasrec.model.checkpoint import is_finite
from diffsasrec.model.objective import Objective, batch_loss
from diffsasrec.model.softmax import Negatives
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.adamw import MOMENTS, AdamW, EmbeddingRows
from diffsasrec.train.epochs import TrainingSet
from diffsasrec.train.phases import Job, Phase, count_warmup_steps, section_name
from diffsasrec.train.ranks import sum_over_ranks

# a step of a larger catalogue updates only the rows of the embedding that it reads
ROWS_ALONE = 100_000
ITEM_WEIGHT = "items.weight"  # the embedding's name among the parameters

Groups = dict[str, dict[str, Tensor]]


class Updater:
    """Updates a model in place, on one rank of `world_size` alike.

    Args:
        objective: on its device, with the model that is trained.
        phase: its name, for error messages.
        warmup_steps: over these the learning rates grow to those of the settings.
        by_rows: the embedding is trained by rows (`EmbeddingRows`); every step needs negatives.
    """

    def __init__(
        self,
        objective: Objective,
        settings: TrainStageConfig,
        *,
        phase: str,
        warmup_steps: int,
        world_size: int,
        by_rows: bool,
    ) -> None:
        self.model, self.settings, self.world_size = objective.model, settings, world_size
        self._phase, self._warmup_steps = phase, warmup_steps
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.rows: EmbeddingRows | None = None
        if by_rows:
            weight_VD = self.model.item_weight.requires_grad_(False)  # so DDP does not see it
            self.rows = EmbeddingRows(weight_VD, self.average[ITEM_WEIGHT])
        self._objective, self._device = objective, self.model.item_weight.device
        self._parallel: nn.Module = objective
        if world_size > 1:
            self._parallel = DistributedDataParallel(
                objective,
                device_ids=[self._device] if self._device.type == "cuda" else None,
                broadcast_buffers=False,  # the buffers are the same everywhere
                find_unused_parameters=True,  # in pretraining: what needs a query time
            )
        self._optimizer = AdamW(
            _parameter_groups(self.model, settings), weight_decay=settings.weight_decay
        )

    def step(self, batch: Batch, negatives: Negatives | None, *, number: int) -> float:
        """Takes step `number` of a phase, from 0; returns the loss, summed over all ranks.

        Raises:
            ConfigError: loss or gradient is not finite; raised on all ranks, before they update.
        """
        warm = min(1.0, (number + 1) / max(self._warmup_steps, 1))
        # the average of a short training must not keep its start: the decay grows with the step
        ema_decay = min(self.settings.ema_decay, (2 + number) / (11 + number))
        self._parallel.train()
        self.model.zero_grad(set_to_none=True)
        if self.rows is None:
            loss = self._backward(batch, negatives, {})
            self._clip([], loss, number)
            self._optimizer.step(warm)
        else:
            assert negatives is not None
            rows_U, taken_UD, loss = self._backward_by_rows(self.rows, batch, negatives)
            self._clip([taken_UD], loss, number)
            self._optimizer.step(warm)
            self.rows.update(
                rows_U,
                taken_UD,
                lr=self.settings.learning_rate * warm,
                weight_decay=self.settings.weight_decay,
                ema_decay=ema_decay,
            )
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if self.rows is None or name != ITEM_WEIGHT:
                    self.average[name].lerp_(parameter, 1 - ema_decay)
        return loss

    def _backward(
        self, batch: Batch, negatives: Negatives | None, replaced: dict[str, Tensor]
    ) -> float:
        """`replaced`: parameters and buffers of the objective, by name."""
        if self.world_size > 1:
            replaced = {f"module.{name}": tensor for name, tensor in replaced.items()}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            sums = torch.func.functional_call(self._parallel, replaced, (batch, negatives))
        loss = batch_loss(sums, batch, self.settings.objective)
        (loss * self.world_size).backward()  # DDP takes the mean
        parts = [float(loss.detach())]
        return sum_over_ranks(parts, device=self._device, world_size=self.world_size)[0]

    def _backward_by_rows(
        self, rows: EmbeddingRows, batch: Batch, negatives: Negatives
    ) -> tuple[Tensor, Tensor, float]:
        """The rows that the step reads, their matrix with its gradient, and the loss."""
        occurs_V = occurring_items(batch, negatives, len(rows.weight_VD)).byte()
        if self.world_size > 1:  # the rows that any rank reads
            torch.distributed.all_reduce(occurs_V, torch.distributed.ReduceOp.MAX)
        rows_U = occurs_V.nonzero()[:, 0]
        taken_UD = rows.take(rows_U)
        batch, negatives = in_rows(batch, negatives, rows_U)
        loss = self._backward(batch, negatives, self._objective.of_rows(rows_U, taken_UD))
        assert taken_UD.grad is not None
        if self.world_size > 1:
            torch.distributed.all_reduce(taken_UD.grad)
            taken_UD.grad /= self.world_size
        return rows_U, taken_UD, loss

    def _clip(self, taken: list[Tensor], loss: float, number: int) -> None:
        """Clips the gradients; refuses those that no clipping mends, before anything uses them.

        Those of the ranker alone: it has a loss of its own, which must not shorten other steps.
        """
        alone = [] if self.model.ranker is None else [*self.model.ranker.parameters()]
        ids = {id(parameter) for parameter in alone}
        others = [p for p in self.model.parameters() if id(p) not in ids]
        limit = self.settings.grad_clip
        norms = [
            float(nn.utils.clip_grad_norm_(parameters, limit))
            for parameters in ([*others, *taken], alone)
        ]
        # all are the same on all ranks, which therefore stop together
        for what, value in (("loss", loss), *(("gradient norm", norm) for norm in norms)):
            if not math.isfinite(value):
                raise self._diverged(f"the {what} of step {number + 1} is {value}")

    def check_finite(self, *, step: int) -> None:
        """Refuses to go on with weights and moments that `step` steps have spoilt, on all ranks.

        Raises:
            ConfigError: some are not finite.
        """
        for kind, tensors in self.state().items():
            for name, tensor in tensors.items():
                if not is_finite(tensor):
                    what = f"{kind} of {name} after step {step}"
                    raise self._diverged(f"values in {what} are no finite numbers")

    def _diverged(self, what: str) -> ConfigError:
        settings = self.settings
        keys = {"learning_rate": settings.learning_rate}
        if isinstance(settings, FinetuneConfig):
            keys["counter_learning_rate"] = settings.counter_learning_rate
        keys["grad_clip"] = settings.grad_clip
        section = section_name(settings)
        named = [f"{section}.{key}={value:g}" for key, value in keys.items()]
        return ConfigError(
            f"{self._phase}: {what}: the training diverged, and was stopped before that was saved; "
            f"lower {', '.join(named[:-1])} or {named[-1]}"
        )

    def settle(self) -> None:
        """Brings the moving average up to date; all ranks must, after the same steps."""
        if self.rows is not None:
            self.rows.settle()

    def state(self) -> Groups:
        """All tensors that training continues from once settled, by kind and parameter."""
        weights = dict(self.model.named_parameters())
        groups: Groups = {"weights": {name: p.detach() for name, p in weights.items()}}
        groups["average"] = dict(self.average)
        for moment in MOMENTS:
            groups[moment] = {
                name: self._optimizer.state[parameter][moment]
                for name, parameter in weights.items()
                if parameter in self._optimizer.state
            }
        if self.rows is not None:
            for key, tensor in self.rows.state().items():
                groups.setdefault(key, {})[ITEM_WEIGHT] = tensor
        return groups

    def load(self, groups: Groups, *, number: int) -> None:
        """Takes a `state` that was saved after `number` steps."""
        self.model.load_state_dict(groups["weights"])
        self.average = groups["average"]
        if self.rows is not None:
            self.rows = EmbeddingRows(self.model.item_weight, self.average[ITEM_WEIGHT])
            self.rows.load({key: groups[key][ITEM_WEIGHT] for key in self.rows.state()})
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and name in groups.get("exp_avg", {}):
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(number)),
                    **{moment: groups[moment][name] for moment in MOMENTS},
                }

    def sent_bytes(self, *, steps: int) -> dict[str, int]:
        """What each worker sends of gradients in a step: a ring all-reduce passes them on twice.

        `steps`: the steps taken; if the embedding is trained by rows, the mean over them counts.
        """
        size = {name: 4 * p.numel() for name, p in self.model.named_parameters()}
        if self.rows is not None:  # which rows, and their gradients
            row = 4 * self.model.item_weight.shape[1]
            updates = int(self.rows.updates_V.sum())
            size[ITEM_WEIGHT] = len(self.rows.updates_V) + row * updates // max(steps, 1)
        sent = 2 * (self.world_size - 1)
        return {
            "sent_bytes_per_step": sent * sum(size.values()) // self.world_size,
            "of_embedding": sent * size[ITEM_WEIGHT] // self.world_size,
        }


def updater_of(
    job: Job,
    phase: Phase,
    model: SequenceModel,
    data: TrainingSet,
    *,
    num_steps: int,
    world_size: int,
    num_negatives: int,
) -> Updater:
    """The updater of a phase.

    Args:
        model: on its device.
        num_steps: of all epochs.
        num_negatives: of each step; 0: the softmax takes all items.
    """
    tables_QVF = data.trends_QVF[:-1]
    if not len(data.query_times):  # only the popularity of all time
        tables_QVF = data.trends_QVF[-1:, :, :1]
    settings = phase.settings
    finetune = settings if isinstance(settings, FinetuneConfig) else None
    objective = Objective(
        model,
        torch.from_numpy(data.counts_V > 0),
        torch.from_numpy(tables_QVF),
        filter_seen=job.filter_seen,
        state_dropout=finetune.state_dropout if finetune else 0.0,
        focus_k=finetune.focus_k if finetune else 0,
    ).to(model.item_weight.device)
    return Updater(
        objective,
        settings,
        phase=phase.name,
        warmup_steps=count_warmup_steps(settings, num_steps=num_steps),
        world_size=world_size,
        by_rows=num_negatives > 0 and len(data.counts_V) > ROWS_ALONE,
    )


def _parameter_groups(model: SequenceModel, settings: TrainStageConfig) -> list[dict[str, Any]]:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not isinstance(settings, FinetuneConfig):
        return [{"params": trained, "full_lr": settings.learning_rate}]
    new = {id(p) for p in model.counter_parameters()}
    return [
        {"params": [p for p in trained if id(p) not in new], "full_lr": settings.learning_rate},
        {"params": [p for p in trained if id(p) in new], "full_lr": settings.counter_learning_rate},
    ]
