"""Exploring: the last places of a list go to items that lists rarely show, where it costs little.

Legend: R rows (user, slot), M choices per row.
"""

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig

CHOICES = 100  # most probable next items of a user, among which it explores


@dataclass(frozen=True)
class Exploration:
    """How `num_items` of a multi-step list are chosen, one after another.

    The choice is the item with the highest probability / (1 + how many of a thousand lists show
    it), counted over the single-step lists of a sample of users. If it is less than `ratio` times
    as probable as the most probable item that is left, that item gets the place instead. So a list
    gives up little, and only for an item that lists show too rarely.
    """

    num_items: int
    ratio: float

    @classmethod
    def of(cls, decoding: DecodingConfig) -> Self:
        return cls(decoding.explore_items, decoding.explore_ratio)

    def choice(self, logits_RM: Tensor, shown_RM: Tensor | None) -> Tensor:
        """The index of the choice in each row, [R].

        Args:
            logits_RM: -inf if there is no item.
            shown_RM: how many of a thousand lists show each item; None: unknown.
        """
        best_R = logits_RM.argmax(1)
        if shown_RM is None:
            return best_R
        rare_R = (logits_RM - shown_RM.log1p()).argmax(1)
        rare_R1, best_R1 = rare_R[:, None], best_R[:, None]
        least_R1 = logits_RM.gather(1, best_R1) + math.log(self.ratio)
        return rare_R1.where(logits_RM.gather(1, rare_R1) >= least_R1, best_R1)[:, 0]
