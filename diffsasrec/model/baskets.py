"""Targets that are baskets: all items of one moment, with equal shares.

Nothing in a log says which item of a basket comes first, so the first slot behind a history has all
of them as its targets.

Legend: B users, R rows, V items, Z pairs (row or user, item of its basket).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffsasrec.model.focus import focused
from diffsasrec.model.heads.pairs import pairs_of_rows


@dataclass(frozen=True)
class Baskets:
    """The distinct items of each user's next basket, sorted by user, then item."""

    users_Z: Tensor
    items_Z: Tensor

    def to(self, device: torch.device) -> "Baskets":
        return Baskets(self.users_Z.to(device), self.items_Z.to(device))

    def shares_of(self, users_X: Tensor, items_X: Tensor) -> Tensor:
        """What share each pair is of the user's basket, 0 if it is not in it, [X] float32."""
        num_users = int(users_X.amax()) + 1 if len(users_X) else 0
        count_B = torch.bincount(self.users_Z, minlength=num_users)
        is_in_X = torch.isin(_keys(users_X, items_X), _keys(self.users_Z, self.items_Z))
        return is_in_X / count_B[users_X].clamp(min=1)

    def of_rows(self, users_R: Tensor, chosen_R: Tensor) -> "Spread":
        """The basket of each chosen row's user, spread evenly; the other rows have none."""
        (rows,) = chosen_R.nonzero(as_tuple=True)
        nth_Z, at_Z = pairs_of_rows(users_R[rows], self.users_Z)
        return Spread.evenly(rows[nth_Z], self.items_Z[at_Z], num_rows=len(users_R))


@dataclass(frozen=True)
class Spread:
    """The targets of some rows; the shares of a row add up to 1."""

    rows_Z: Tensor  # ascending
    items_Z: Tensor
    shares_Z: Tensor
    has_R: Tensor  # bool

    @staticmethod
    def evenly(rows_Z: Tensor, items_Z: Tensor, *, num_rows: int) -> "Spread":
        count_R = torch.bincount(rows_Z, minlength=num_rows)
        return Spread(rows_Z, items_Z, 1.0 / count_R[rows_Z], count_R > 0)

    def without(self, rows_Y: Tensor, items_Y: Tensor) -> "Spread":
        """The same without some pairs (row, item), spread evenly over what is left."""
        blocked_Z = torch.isin(_keys(self.rows_Z, self.items_Z), _keys(rows_Y, items_Y))
        return Spread.evenly(
            self.rows_Z[~blocked_Z], self.items_Z[~blocked_Z], num_rows=len(self.has_R)
        )

    def of_rows(self, start: int, stop: int) -> "Spread":
        bounds = torch.tensor([start, stop], device=self.rows_Z.device)
        inside = slice(*torch.searchsorted(self.rows_Z, bounds).tolist())
        return replace(
            self,
            rows_Z=self.rows_Z[inside] - start,
            items_Z=self.items_Z[inside],
            shares_Z=self.shares_Z[inside],
            has_R=self.has_R[start:stop],
        )

    def first_items(self, targets_R: Tensor) -> Tensor:
        """One target of each row, and those of `targets_R` for rows that have none here, [R]."""
        starts_R = torch.searchsorted(self.rows_Z, torch.arange(len(targets_R)).to(targets_R))
        if not len(self.items_Z):
            return targets_R
        first_R = self.items_Z[starts_R.clamp(max=len(self.items_Z) - 1)]
        return torch.where(self.has_R, first_R, targets_R)

    def nll(self, logits_RV: Tensor, single_R: Tensor, floor_R: Tensor | None) -> Tensor:
        """The mean loss over a row's targets, and `single_R` for rows without any, [R]."""
        total_R = logits_RV.logsumexp(1)
        nll_Z = total_R[self.rows_Z] - logits_RV[self.rows_Z, self.items_Z]
        if floor_R is not None:
            nll_Z = focused(nll_Z, floor_R[self.rows_Z])
        mean_R = torch.zeros_like(single_R).index_add(0, self.rows_Z, nll_Z * self.shares_Z)
        return torch.where(self.has_R, mean_R, single_R)


def _keys(rows_X: Tensor, items_X: Tensor) -> Tensor:
    return rows_X * 2**40 + items_X
