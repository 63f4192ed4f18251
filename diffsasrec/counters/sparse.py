"""Sparse tables of scores, and the products and the best entries of them.

Legend: V items, B users. A table is a sparse matrix, sorted by row and column, all of whose entries
are above 0.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

ENTRIES_AT_ONCE = 2**24  # of a product, before the best of them are kept

Ints = npt.NDArray[np.int64]
Table: TypeAlias = scipy.sparse.csr_matrix


def only(table: Table, kept: npt.NDArray[np.bool_]) -> Table:
    """The entries for which `kept`, [entries], is true."""
    indptr = np.r_[0, np.cumsum(kept)][table.indptr]
    return Table((table.data[kept], table.indices[kept], indptr), table.shape)


def row_bounds(left: Table, right: Table) -> Ints:
    """Where to cut the rows of a product so that its parts have about ENTRIES_AT_ONCE entries."""
    num_rows, num_items = left.shape[0], right.shape[1]
    ones = Table((np.ones_like(left.data), left.indices, left.indptr), left.shape)
    most = np.minimum(ones @ np.diff(right.indptr).astype(np.float64), num_items)
    block = (np.cumsum(most) // ENTRIES_AT_ONCE).astype(np.int64)
    return np.r_[0, np.flatnonzero(np.diff(block)) + 1, num_rows]


def product_of(left: Table, right: Table) -> Table:
    """The product, whose entries above 0 are sorted by row and column."""
    product = (left @ right).tocsc().tocsr()  # sorts, faster than sorting does
    return only(product, product.data > 0)


def rows_of(table: Table) -> Ints:
    """The row of each entry, [entries]."""
    return np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))


def places(groups: Ints) -> Ints:
    """The place of each entry within its group, from 0; the entries of a group lie together."""
    begins = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    lengths = np.diff(np.r_[begins, len(groups)])
    return np.arange(len(groups)) - np.repeat(begins, lengths)


def best_of_rows(table: Table, num: int) -> Table:
    """The `num` largest entries of each row, of equal ones the first; entries are above 0."""
    if not num or not table.nnz:
        return only(table, np.zeros(table.nnz, bool))
    lengths, row = np.diff(table.indptr), rows_of(table).astype(np.uint64)
    # floats above 0 are ordered as their bits are; the rows one by one, the largest first
    bits = table.data.astype(np.float32).view(np.uint32).astype(np.uint64)
    rank = (row << np.uint64(32)) | (np.uint64(2**32 - 1) - bits)
    last = np.maximum(table.indptr[:-1] + np.minimum(lengths, num) - 1, 0)
    worst = np.sort(rank)[last]  # of the rows' best; not used where a row is empty
    (some,) = np.nonzero(rank <= worst[row.astype(np.int64)])
    some = some[np.lexsort((table.indices[some], rank[some]))]
    kept = np.zeros(table.nnz, bool)
    kept[some[places(row[some].astype(np.int64)) < num]] = True
    return only(table, kept)
