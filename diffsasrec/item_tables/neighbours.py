"""The best neighbours of items: by what occurs together, by vectors, or popular in the category.

Nothing is made of all pairs of items at once: a product is made for some rows, and its best entries
are kept.

Legend: N all items, V items of the weights, C columns (the allowed items), E rows that items are
counted in, W width of vectors, R rows, M neighbours per row.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from diffsasrec.counters.similar import incidences
from diffsasrec.counters.sparse import (
    Table,
    best_of_rows,
    only,
    places,
    product_of,
    row_bounds,
    rows_of,
)
from diffsasrec.item_tables.all_items import AllItems, Ints, Mask
from diffsasrec.item_tables.popular import Popular
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.top_k import top_items
from diffsasrec.sequences.histories import Histories

ROWS_AT_ONCE = 4096  # items whose vectors look for neighbours together
TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Neighbours:
    """Of some items, one after another, the best first, [n] each."""

    items: Ints
    neighbours: Ints
    scores: npt.NDArray[np.float32]


class Source(Protocol):
    """Gives the neighbours of items."""

    def best(self, rows: range, k: int) -> Neighbours:
        """At most k of each row, without itself, and only allowed ones."""
        ...


@dataclass(frozen=True)
class OccurringTogether:
    """Neighbours by the cosines of `counters/similar.py`."""

    left_NE: Table
    right_EN: Table  # of the allowed items alone
    category: Ints  # [N]
    max_per_category: int | None

    @classmethod
    def of(
        cls,
        histories: Histories,
        items: AllItems,
        *,
        by: Literal["users", "baskets", "next_baskets"],
        max_per_category: int | None,
    ) -> "OccurringTogether":
        """`histories`: by the numbers of `items`."""
        left, right = incidences(histories, num_items=len(items), by=by)
        right = only(right, items.allowed[right.indices])
        return cls(left.T.tocsr(), right, items.category, max_per_category)

    def best(self, rows: range, k: int) -> Neighbours:
        left = self.left_NE[rows.start : rows.stop]
        parts = []
        for start, stop in pairwise(row_bounds(left, self.right_EN)):
            product = product_of(left[start:stop], self.right_EN)
            itself = rows_of(product) + rows.start + start
            product = only(product, product.indices != itself)
            if self.max_per_category is not None:
                product = _capped(product, self.category, self.max_per_category)
            parts.append(best_of_rows(product, k))
        table = scipy.sparse.vstack(parts, format="csr")
        row = rows_of(table)
        order = np.lexsort((table.indices, -table.data, row))
        neighbours = table.indices[order].astype(np.int64)
        return Neighbours(row[order] + rows.start, neighbours, table.data[order])


def _capped(table: Table, category: Ints, most: int) -> Table:
    """The largest entries of each row, of one category at most so many."""
    of_entry = category[table.indices]
    group = rows_of(table) * (int(category.max(initial=0)) + 2) + of_entry + 1
    order = np.lexsort((-table.data, group))  # stable: of equal ones the first item
    kept = np.ones(table.nnz, bool)
    kept[order] = (places(group[order]) < most) | (of_entry[order] < 0)
    return only(table, kept)


@dataclass(frozen=True)
class AlikeInVectors:
    """Neighbours by the cosines of the item vectors of a model, which has the first items.

    Arrays and no tensors: Ray then shares them between the tasks of a node.
    """

    vectors_VW: npt.NDArray[np.float32]  # of length 1
    trained: Mask  # [V]: others have no neighbours
    columns: Ints  # the allowed items, [C]
    vectors_CW: npt.NDArray[np.float32]  # of these
    category: Ints  # [N]
    max_per_category: int | None

    @classmethod
    def of(
        cls,
        vectors_VW: npt.NDArray[np.float32],
        trained: Mask,
        items: AllItems,
        *,
        max_per_category: int | None,
    ) -> "AlikeInVectors":
        lengths = np.linalg.norm(vectors_VW, axis=1, keepdims=True)
        unit_VW = (vectors_VW / np.maximum(lengths, TINY)).astype(np.float32)
        columns = np.flatnonzero(items.allowed)
        chosen = unit_VW if len(columns) == len(unit_VW) else unit_VW[columns]
        return cls(unit_VW, trained, columns, chosen, items.category, max_per_category)

    def best(self, rows: range, k: int) -> Neighbours:
        asked = np.arange(rows.start, max(min(rows.stop, len(self.trained)), rows.start))
        asked = asked[self.trained[asked]] if len(self.columns) else asked[:0]
        catalogue = Catalogue(
            _tensor(self.vectors_CW), torch.ones(len(self.columns), dtype=torch.bool), cap=self._cap
        )
        chunks = (asked[at : at + ROWS_AT_ONCE] for at in range(0, len(asked), ROWS_AT_ONCE))
        return _joined(self._best_of(chunk, catalogue, k) for chunk in chunks)

    @property
    def _cap(self) -> CategoryCap | None:
        if self.max_per_category is None:
            return None
        return CategoryCap(self.max_per_category, torch.tensor(self.category[self.columns]))

    def _best_of(self, asked: Ints, catalogue: Catalogue, k: int) -> Neighbours:
        column = np.searchsorted(self.columns, asked)
        (itself,) = np.nonzero(np.r_[self.columns, -1][column] == asked)  # no own neighbour
        blocked = torch.from_numpy(itself), torch.from_numpy(column[itself])
        queries_RW = torch.from_numpy(self.vectors_VW[asked])
        top = top_items(queries_RW, torch.arange(len(asked)), Candidates(catalogue, *blocked), k)
        found_RM = top.items_RM.numpy()
        is_there_RM = found_RM >= 0
        items = np.repeat(asked, is_there_RM.sum(axis=1))
        scores = top.logits_RM.numpy()[is_there_RM]
        return Neighbours(items, self.columns[found_RM[is_there_RM]], scores)


def _tensor(array: npt.NDArray[np.float32]) -> Tensor:
    """The same memory as a tensor: what Ray shares can't be written, and is only read here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def in_category(cold: Ints, items: AllItems, popular: Popular, k: int) -> Neighbours:
    """The most popular of the category of each item, without itself.

    Args:
        popular: of each category the k + 1 most popular.
    """
    cold = cold[items.category[cold] >= 0]
    group = items.category[cold]
    first, lengths = popular.offsets[group], np.diff(popular.offsets)[group]
    owner = np.repeat(cold, lengths)
    begins = np.cumsum(lengths) - lengths
    at = np.arange(len(owner)) - np.repeat(begins - first, lengths)
    kept = popular.items[at] != owner
    owner, at = owner[kept], at[kept]
    kept = places(owner) < k
    return Neighbours(owner[kept], popular.items[at[kept]], popular.scores[at[kept]])


def _joined(parts: Iterable[Neighbours]) -> Neighbours:
    nothing = Neighbours(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    every = [nothing, *parts]
    return Neighbours(
        np.concatenate([part.items for part in every]),
        np.concatenate([part.neighbours for part in every]),
        np.concatenate([part.scores for part in every]),
    )
