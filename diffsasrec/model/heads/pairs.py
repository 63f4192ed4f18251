"""Pairs (user, item) that have a score of their own, and what scores of pairs add to logits.

Legend: R rows, V items, C pair features, X pairs (user, item), Y and Z pairs (row, item), M the
most pairs of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Items with a score for a user, sorted by user, then item: `counters.pairs`."""

    users_X: Tensor
    items_X: Tensor
    features_XC: Tensor
    ranks_XR: Tensor | None = None  # among the pairs of the user, for the ranker; None: no ranker
    is_copied_X: Tensor | None = None  # bool: has a copy score; None: all have

    def known(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(**{name: tensor.to(device) for name, tensor in self.known().items()})

    def take(self, chosen_Z: Tensor) -> "Pairs":
        return Pairs(**{name: tensor[chosen_Z] for name, tensor in self.known().items()})

    def copied(self) -> "Pairs":
        """The pairs with a copy score, without what the ranker knows."""
        pairs = self if self.is_copied_X is None else self.take(self.is_copied_X.nonzero()[:, 0])
        return Pairs(pairs.users_X, pairs.items_X, pairs.features_XC)


@dataclass(frozen=True)
class Extras:
    """What is added to single logits: a score for pairs (row, item), each pair once, by row."""

    rows_Y: Tensor
    items_Y: Tensor
    scores_Y: Tensor  # -inf: the row can't have the item

    def of_rows(self, start: int, stop: int) -> "Extras":
        bounds = torch.tensor([start, stop], device=self.rows_Y.device)
        inside = slice(*torch.searchsorted(self.rows_Y, bounds).tolist())
        return Extras(self.rows_Y[inside] - start, self.items_Y[inside], self.scores_Y[inside])

    def add_to(self, logits_RV: Tensor) -> Tensor:
        where = (self.rows_Y, self.items_Y)
        return logits_RV.index_put(where, self.scores_Y.to(logits_RV.dtype), accumulate=True)

    def of_pairs(self, rows_Z: Tensor, items_Z: Tensor, *, num_items: int) -> Tensor:
        """The scores of some pairs, 0 if there is none, [Z]; items must be sorted within a row."""
        keys_Y = self.rows_Y * num_items + self.items_Y
        keys_Z = rows_Z * num_items + items_Z
        at_Z = torch.searchsorted(keys_Y, keys_Z).clamp(max=max(len(keys_Y) - 1, 0))
        if not len(keys_Y):
            return torch.zeros(len(keys_Z), device=keys_Z.device)
        return self.scores_Y[at_Z].float().masked_fill(keys_Y[at_Z] != keys_Z, 0.0)


def merged(one: Extras, other: Extras) -> Extras:
    """The pairs of both, by row, then item; no pair is in both."""
    rows_Y, items_Y = (
        torch.cat(both) for both in ((one.rows_Y, other.rows_Y), (one.items_Y, other.items_Y))
    )
    scores_Y = torch.cat([one.scores_Y.to(other.scores_Y.dtype), other.scores_Y])
    order_Y = items_Y.argsort(stable=True)
    order_Y = order_Y[rows_Y[order_Y].argsort(stable=True)]
    return Extras(rows_Y[order_Y], items_Y[order_Y], scores_Y[order_Y])


def pairs_of_rows(users_R: Tensor, pair_users_X: Tensor) -> tuple[Tensor, Tensor]:
    """For each row its user's pairs: rows [Y] and pairs [Y]; `pair_users_X` is sorted."""
    first_R = torch.searchsorted(pair_users_X, users_R)
    count_R = torch.searchsorted(pair_users_X, users_R, right=True) - first_R
    rows_Y = torch.repeat_interleave(count_R)
    return rows_Y, first_R[rows_Y] + _nth(rows_Y, count_R)


def _nth(rows_Y: Tensor, count_R: Tensor) -> Tensor:
    """The place of each pair among those of its row, [Y]; `rows_Y` is sorted."""
    return torch.arange(len(rows_Y), device=rows_Y.device) - (count_R.cumsum(0) - count_R)[rows_Y]


def padded(values_Y: Tensor, rows_Y: Tensor, num_rows: int) -> Tensor:
    """The values of each row side by side, [R, M], -inf behind the last; `rows_Y` is sorted."""
    count_R = torch.bincount(rows_Y, minlength=num_rows)
    width = int(count_R.max()) if num_rows else 0
    values_RM = torch.full((num_rows, width), -torch.inf, device=values_Y.device)
    where = (rows_Y, _nth(rows_Y, count_R))
    return values_RM.index_put(where, values_Y.detach().float())
