"""Sparse tables of scores, and the products and the best entries of them.

Legend: V items, B users. A table is a sparse matrix, sorted by row and column, all of whose entries
are above 0.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

Ints = npt.NDArray[np.int64]
Table: TypeAlias = scipy.sparse.csr_matrix


def only(table: Table, kept: npt.NDArray[np.bool_]) -> Table:
    """The entries for which `kept`, [entries], is true."""
    indptr = np.r_[0, np.cumsum(kept)][table.indptr]
    return Table((table.data[kept], table.indices[kept], indptr), table.shape)


def product_of(left: Table, right: Table) -> Table:
    """The product, whose entries above 0 are sorted by row and column."""
    product = (left @ right).tocsc().tocsr()  # sorts, faster than sorting does
    return only(product, product.data > 0)


def rows_of(table: Table) -> Ints:
    """The row of each entry, [entries]."""
    return np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))


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
    some_row = row[some].astype(np.int64)
    place = np.arange(len(some)) - np.searchsorted(some_row, some_row)
    kept = np.zeros(table.nnz, bool)
    kept[some[place < num]] = True
    return only(table, kept)
