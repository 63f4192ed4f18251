"""What can be recommended, and to whom: item vectors, filters, scores of own items.

Legend: V items, C columns (the items that are allowed), W width of item vectors, B and U users, R
rows (states to score), T rows of a tile, N blocks of items, X pairs (user, item), Y pairs (row,
item).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from diffsasrec.model.heads.pairs import Extras
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.logit_bound import Metric

# rows and items of a tile of logits: 4 MiB stay in a CPU's cache, a GPU wants more at once
TILES = {"cpu": (512, 2048), "cuda": (8192, 16384)}


@dataclass(frozen=True)
class Catalogue:
    """What all users choose from."""

    vectors_VW: Tensor
    allowed_V: Tensor  # bool: trained on, allowed, not denied
    shown_V: Tensor | None = None  # how many of a thousand lists show it; None: unknown
    cap: CategoryCap | None = None  # on the items of one category in a list
    fused: bool = False  # by the kernels of `top_k_triton`, if few items are asked for
    is_boosted: bool = False  # the vectors end with a boost; all states have 1 there

    @cached_property
    def items_C(self) -> Tensor:
        return self.allowed_V.nonzero()[:, 0]

    @cached_property
    def vectors_CW(self) -> Tensor:
        return self.vectors_VW if self.allowed_V.all() else self.vectors_VW[self.items_C]

    @cached_property
    def columns_V(self) -> Tensor:
        """The column of each item, -1 where it is not allowed."""
        columns_V = torch.full_like(self.allowed_V, -1, dtype=torch.int64)
        columns_V[self.items_C] = torch.arange(len(self.items_C), device=columns_V.device)
        return columns_V

    @cached_property
    def longest(self) -> Tensor:
        """The length of the longest vector, [], float32."""
        return self.vectors_CW.norm(dim=1, dtype=torch.float32).amax()

    def columns_of(self, items: Tensor) -> Tensor:
        """The column of each item, of the same shape; -1 where it is not allowed or -1 itself."""
        return self.columns_V[items.clamp(min=0)].masked_fill(items < 0, -1)

    @cached_property
    def metric(self) -> "Metric":
        # no change of a state moves a boost: with it the bound would hold too, but be loose
        return Metric.of(self.vectors_CW[:, :-1] if self.is_boosted else self.vectors_CW)


class OwnScores(Protocol):
    """What is added to the logits of the items of the users' own histories.

    All rows of a user have the same items.
    """

    def of_rows(self, queries_RW: Tensor, users_R: Tensor) -> Extras: ...

    def among(self, users_P: Tensor, items_P: Tensor) -> "OwnScores":
        """The same for only some pairs (user, item); pairs that are not own items are ignored."""
        ...

    def rise(self, before_RW: Tensor, after_RW: Tensor) -> Tensor:
        """An upper bound on the rise of any score from one query to the other, [R]."""
        ...


@dataclass(frozen=True)
class Candidates:
    """What may be recommended to the users of a batch."""

    catalogue: Catalogue
    blocked_users_X: Tensor  # pairs (user row in the batch, item) that are filtered, as seen items;
    blocked_items_X: Tensor  # in any order, duplicates allowed
    own: OwnScores | None = None

    @cached_property
    def blocked(self) -> list[tuple[Tensor, Tensor]]:
        """The users and columns of the blocked pairs, by tile of columns, and in it by user."""
        columns_X = self.catalogue.columns_V[self.blocked_items_X]
        (allowed_X,) = (columns_X >= 0).nonzero(as_tuple=True)
        columns_X, users_X = columns_X[allowed_X], self.blocked_users_X[allowed_X]
        width = TILES[columns_X.device.type][1]
        num_tiles = -(-len(self.catalogue.items_C) // width)
        num_users = int(users_X.max()) + 1 if len(users_X) else 1
        order_X = (columns_X // width * num_users + users_X).argsort(stable=True)
        sizes = torch.bincount(columns_X // width, minlength=num_tiles).tolist()
        return list(
            zip(users_X[order_X].split(sizes), columns_X[order_X].split(sizes), strict=True)
        )

    def hidden_words(self, users_U: Tensor) -> Tensor:
        """The blocked pairs of some users as `top_k_triton` reads them, [U, N]."""
        from diffsasrec.retrieve import top_k_triton as fused

        num_blocked = len(self._hidden_words)
        nothing = fused.nothing_hidden(len(users_U), len(self.catalogue.items_C), users_U.device)
        if not num_blocked:
            return nothing
        known_UN = self._hidden_words[users_U.clamp(max=num_blocked - 1)]
        return torch.where((users_U < num_blocked)[:, None], known_UN, nothing)

    @cached_property
    def _hidden_words(self) -> Tensor:
        from diffsasrec.retrieve import top_k_triton as fused

        users_X, columns_X = (torch.cat(parts) for parts in zip(*self.blocked, strict=True))
        num_users = int(users_X.max()) + 1 if len(users_X) else 0
        nothing = fused.nothing_hidden(num_users, len(self.catalogue.items_C), users_X.device)
        return fused.hide(nothing, users_X, columns_X)

    def num_left(self, num_users: int) -> Tensor:
        """How many items a list of each user can have, [B]."""
        catalogue, num_items = self.catalogue, len(self.catalogue.items_C)
        pairs = [torch.unique(users * num_items + columns) for users, columns in self.blocked]
        pair_X = torch.cat([self.blocked_users_X[:0], *pairs])
        users_X, columns_X = pair_X // max(num_items, 1), pair_X % max(num_items, 1)
        if catalogue.cap is not None:
            items_X = catalogue.items_C[columns_X]
            return catalogue.cap.num_fitting(users_X, items_X, catalogue.allowed_V, num_users)
        return num_items - torch.bincount(users_X, minlength=num_users)

    def own_of_rows(self, queries_TW: Tensor, users_T: Tensor) -> Extras | None:
        """The own scores of the allowed items, by column instead of item, by tile of columns."""
        if self.own is None:
            return None
        own = self.own.of_rows(queries_TW, users_T)
        columns_Y = self.catalogue.columns_V[own.items_Y]
        (allowed_Y,) = (columns_Y >= 0).nonzero(as_tuple=True)
        width = TILES[columns_Y.device.type][1]
        order_Y = allowed_Y[(columns_Y[allowed_Y] // width).argsort(stable=True)]
        return Extras(own.rows_Y[order_Y], columns_Y[order_Y], own.scores_Y[order_Y].float())
