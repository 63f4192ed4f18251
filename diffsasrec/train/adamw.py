"""AdamW (Loshchilov & Hutter 2019) of whole parameters, and of some rows of a large item embedding.

A step on a large catalogue sees few of its items: those of its sequences and the sampled negatives.
Their rows are taken out and get a gradient of their own, which ranks add up; AdamW and the moving
average then update only these rows, in time and memory that do not grow with the rest. A row that a
step does not see keeps its moments and its weights, as in lazy Adam. Its moving average catches up
when it is next needed, and is exact.

Legend: V items, U rows of a step (ascending items), D hidden size.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

ROWS_AT_ONCE = 2**15
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # as torch.optim.AdamW
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """What `torch.optim.AdamW` does, whose class imports torch's compiler: seconds of a worker.

    Args:
        groups: of `params`, each with its `full_lr`.
    """

    def __init__(self, groups: list[dict[str, Any]], *, weight_decay: float) -> None:
        self._groups, self._weight_decay = groups, weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}  # of those that have had a gradient

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Updates what has a gradient, with this share of the full learning rates."""
        for group in self._groups:
            seen: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            for p in seen:
                if p not in self.state:
                    self.state[p] = {moment: torch.zeros_like(p) for moment in MOMENTS}
                    self.state[p]["step"] = torch.tensor(0.0)
            states = [self.state[p] for p in seen]
            adamw(
                seen,
                [p.grad for p in seen if p.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                amsgrad=False,
                beta1=BETA_1,
                beta2=BETA_2,
                lr=group["full_lr"] * share,
                weight_decay=self._weight_decay,
                eps=EPSILON,
                maximize=False,
            )


class EmbeddingRows:
    """The state of an embedding that is trained by rows. All tensors are changed in place."""

    def __init__(self, weight_VD: Tensor, average_VD: Tensor) -> None:
        self.weight_VD, self.average_VD = weight_VD, average_VD
        self.exp_avg_VD, self.exp_avg_sq_VD = (
            torch.zeros_like(weight_VD),
            torch.zeros_like(weight_VD),
        )
        self.updates_V = torch.zeros(len(weight_VD), dtype=torch.int64, device=weight_VD.device)
        # log of the product of the decays since `settle`: of all, and up to each row's average
        self._log_decay = 0.0
        self._averaged_V = torch.zeros(len(weight_VD), dtype=torch.float64, device=weight_VD.device)

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs, besides weights and average."""
        return {
            "exp_avg": self.exp_avg_VD,
            "exp_avg_sq": self.exp_avg_sq_VD,
            "updates": self.updates_V,
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the `state` that was saved when all rows were settled."""
        self.exp_avg_VD, self.exp_avg_sq_VD = state["exp_avg"], state["exp_avg_sq"]
        self.updates_V = state["updates"]

    def take(self, rows_U: Tensor) -> Tensor:
        """The rows as a matrix that gets a gradient, [U, D]."""
        return self.weight_VD[rows_U].requires_grad_()

    @torch.no_grad()
    def update(
        self, rows_U: Tensor, taken_UD: Tensor, *, lr: float, weight_decay: float, ema_decay: float
    ) -> None:
        """A step of AdamW with the gradient of what `take` gave, and one of the moving average."""
        gradient_UD = taken_UD.grad
        assert gradient_UD is not None
        self._settle(rows_U)
        updates_U = self.updates_V[rows_U] + 1
        exp_avg_UD = self.exp_avg_VD[rows_U].lerp_(gradient_UD, 1 - BETA_1)
        exp_avg_sq_UD = self.exp_avg_sq_VD[rows_U].mul_(BETA_2)
        exp_avg_sq_UD.addcmul_(gradient_UD, gradient_UD, value=1 - BETA_2)
        # a row starts when it is first seen: its moments are corrected by its own count
        bias_1_U1, bias_2_U1 = (
            (1 - beta ** updates_U.double()).float()[:, None] for beta in (BETA_1, BETA_2)
        )
        change_UD = exp_avg_UD / bias_1_U1 / ((exp_avg_sq_UD / bias_2_U1).sqrt_() + EPSILON)
        weight_UD = taken_UD.detach() * (1 - lr * weight_decay) - lr * change_UD
        self.weight_VD[rows_U] = weight_UD
        self.exp_avg_VD[rows_U], self.exp_avg_sq_VD[rows_U] = exp_avg_UD, exp_avg_sq_UD
        self.updates_V[rows_U] = updates_U
        self.average_VD[rows_U] = self.average_VD[rows_U].lerp_(weight_UD, 1 - ema_decay)
        self._log_decay += math.log(max(ema_decay, 1e-30))
        self._averaged_V[rows_U] = self._log_decay

    @torch.no_grad()
    def settle(self) -> None:
        """Brings the moving average of every row up to all steps so far."""
        rows_U = (self._averaged_V != self._log_decay).nonzero()[:, 0]
        for some_U in rows_U.split(ROWS_AT_ONCE):  # copies of all at once would fill the memory
            self._settle(some_U)
        self._log_decay = 0.0
        self._averaged_V.zero_()

    def _settle(self, rows_U: Tensor) -> None:
        # the weights of a row did not change in the steps that did not see it
        decay_U = torch.exp(self._log_decay - self._averaged_V[rows_U]).float()
        weight_UD = self.weight_VD[rows_U]
        distance_UD = self.average_VD[rows_U] - weight_UD
        self.average_VD[rows_U] = weight_UD + distance_UD * decay_U[:, None]
