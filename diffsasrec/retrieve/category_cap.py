"""At most so many items of one category in a list.

A list takes the best items in their order and leaves out those whose category is full. M candidates
that follow this rule can all be taken together: a category that fills up has taken as many places
of the list as it takes candidates away.

Legend: V items, B users, R rows, M candidates per row, K list length, X pairs (user, item).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CategoryCap:
    most: int  # items of one category in a list
    category_V: Tensor  # int64; -1: no category; such items are not limited

    def to(self, device: torch.device) -> "CategoryCap":
        return CategoryCap(self.most, self.category_V.to(device))

    def fits(self, items_RM: Tensor, taken_RK: Tensor) -> Tensor:
        """Which items a list can take besides `taken_RK`, if it takes them in this order; bool.

        -1 stands for no item in both, and never fits.
        """
        category_RM = self._of(items_RM)
        order_RM = category_RM.argsort(dim=1, stable=True)
        sorted_RM = category_RM.gather(1, order_RM)
        place_RM = torch.arange(items_RM.shape[1], device=items_RM.device).expand_as(items_RM)
        begins_RM = torch.ones_like(items_RM, dtype=torch.bool)
        begins_RM[:, 1:] = sorted_RM[:, 1:] != sorted_RM[:, :-1]
        first_RM = torch.where(begins_RM, place_RM, 0).cummax(dim=1).values
        nth_RM = torch.empty_like(place_RM).scatter_(1, order_RM, place_RM - first_RM)
        nth_RM = nth_RM + self._num_taken(category_RM, taken_RK)
        return (items_RM >= 0) & ((category_RM < 0) | (nth_RM < self.most))

    def is_full(self, items_BM: Tensor, taken_BK: Tensor) -> Tensor:
        """Whether the category of an item has no place left in the list, bool."""
        category_BM = self._of(items_BM)
        return (category_BM >= 0) & (self._num_taken(category_BM, taken_BK) >= self.most)

    def num_fitting(self, users_X: Tensor, items_X: Tensor, allowed_V: Tensor, num: int) -> Tensor:
        """How many items fit into a list of any length for each of `num` users, [B].

        Args:
            users_X, items_X: distinct pairs that are filtered, allowed items only.
        """
        category_V = self.category_V[allowed_V]
        free = int((category_V < 0).sum())
        sizes_C = torch.bincount(category_V[category_V >= 0])
        fitting_B = torch.full((num,), free + int(sizes_C.clamp(max=self.most).sum()))
        fitting_B = fitting_B.to(allowed_V.device)
        category_X = self.category_V[items_X]
        fitting_B -= torch.bincount(users_X[category_X < 0], minlength=num)
        has_X = category_X >= 0
        pairs, lost = torch.unique(
            users_X[has_X] * max(len(sizes_C), 1) + category_X[has_X], return_counts=True
        )
        sizes = sizes_C[pairs % max(len(sizes_C), 1)] if len(sizes_C) else pairs
        fewer = sizes.clamp(max=self.most) - (sizes - lost).clamp(max=self.most)
        return fitting_B.index_add(0, pairs // max(len(sizes_C), 1), -fewer)

    def _of(self, items: Tensor) -> Tensor:
        return self.category_V[items.clamp(min=0)].masked_fill(items < 0, -1)

    def _num_taken(self, category_RM: Tensor, taken_RK: Tensor) -> Tensor:
        num_RM = torch.zeros_like(category_RM)
        for taken_R in self._of(taken_RK).unbind(1):
            num_RM += (category_RM == taken_R[:, None]) & (taken_R >= 0)[:, None]
        return num_RM
