"""How far the logits of a step can move from those of the step before: a bound by a norm."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """Lengths that bound how far a change of the state moves the logit of an item.

    With the mean m and the covariance S of the item vectors, for every item v and change d:
    d v <= d m + |sqrt(S) d| |sqrt(S)^-1 (v - m)|, by Cauchy and Schwarz. In this metric, all items
    are about equally far from the mean, so the bound is tight for each.

    Where the vectors of the items end with a boost, this knows nothing of it: what is behind its
    width in a change is 0.
    """

    mean_W: Tensor
    root_WW: Tensor
    typical: float  # almost all items are no farther from the mean
    excess_C: Tensor  # how much farther each item is, 0 for nearly all

    @staticmethod
    def of(vectors_CW: Tensor) -> "Metric":
        num, width = vectors_CW.shape
        mean_W = torch.zeros(width, dtype=torch.float64, device=vectors_CW.device)
        scatter_WW = mean_W.new_zeros((width, width))
        chunks = vectors_CW.split(2**13)  # in float64 a large catalogue would take much memory
        for chunk in chunks:
            mean_W += chunk.double().sum(0) / num
        for chunk in chunks:
            centred = chunk.double() - mean_W
            scatter_WW += centred.T @ centred / num
        values_W, axes_WW = torch.linalg.eigh(scatter_WW)
        # any positive lengths of the axes make a bound; these keep the inverse well-conditioned
        values_W = values_W.clamp(min=float(values_W.max()) * 1e-8 + 1e-12)
        root_WW = (axes_WW * values_W.sqrt()) @ axes_WW.T
        inverse_WW = (axes_WW * values_W.rsqrt()) @ axes_WW.T
        distance_C = torch.cat(
            [((chunk.double() - mean_W) @ inverse_WW).norm(dim=1) for chunk in chunks]
        ).float()
        few = max(num // 50, 1)
        typical = float(distance_C.topk(few).values[-1])
        return Metric(mean_W.float(), root_WW.float(), typical, (distance_C - typical).clamp(min=0))

    def reach(self, changes_RW: Tensor) -> Tensor:
        """|sqrt(S) d| of each change, [R]."""
        return (self._known(changes_RW) @ self.root_WW).norm(dim=-1)

    def rise(self, changes_RW: Tensor, spread_R: Tensor) -> Tensor:
        """A bound on the rise of any logit, beyond `spread_R` times the item's excess, [R]."""
        reach_R = self.reach(changes_RW)
        beyond_R = (reach_R - spread_R).clamp(min=0) * self.excess_C.max()
        return self._known(changes_RW) @ self.mean_W + reach_R * self.typical + beyond_R

    def _known(self, changes_RW: Tensor) -> Tensor:
        return changes_RW[..., : len(self.mean_W)]
