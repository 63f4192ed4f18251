"""All items that a table of items knows: those of the weights, of tonight's log, of the metadata.

Legend: N all items, V items of tonight's vocabulary, G categories.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.inputs.items import items_of
from diffsasrec.schema import canonical, like
from diffsasrec.sequences.vocab import index_items

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
PART = 20_000  # items of a file: a task makes it in bounded memory


@dataclass(frozen=True)
class AllItems:
    """Items by a number: first those of the weights, then those that only the log or only the
    metadata has.
    """

    ids: pa.Array  # [N], as in the log
    allowed: Mask  # [N]: by the rules of the lists; what the weights don't know is not
    category: Ints  # [N], of `names`; -1: none
    names: pa.Array  # of the categories, [G]
    of_log: npt.NDArray[np.int32]  # the number of each item of tonight's vocabulary, [V]

    @classmethod
    def of(
        cls, weights_vocab: pa.Table, log_vocab: pa.Table, allowed: Mask, items: pa.Table | None
    ) -> "AllItems":
        """`items`: the metadata, as `read_items` gives it; None: there is none."""
        known = weights_vocab.select(["item_id"])
        for more in (log_vocab, items):
            if more is not None:
                known = _with(known, more["item_id"].combine_chunks())
        ids = known["item_id"].combine_chunks()
        allowed_N = np.r_[allowed, np.zeros(len(ids) - len(allowed), bool)]
        names, category = pa.array([], pa.string()), np.full(len(ids), -1, np.int64)
        if items is not None:
            found = items_of(items, ids, "category").cast(pa.string()).dictionary_encode()
            names = found.dictionary
            category = found.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        of_log = index_items(log_vocab["item_id"].combine_chunks(), known)
        return cls(ids, allowed_N, category, names, of_log)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_parts(self) -> int:
        """Files of a table with some rows for each item; at least one."""
        return max(-(-len(self) // PART), 1)

    def part(self, number: int) -> range:
        """The items of a file."""
        return range(number * PART, min((number + 1) * PART, len(self)))

    def number_of(self, item_ids: pa.Array) -> Ints:
        """The number of each id, -1 where it is not known."""
        return index_items(item_ids, pa.table({"item_id": self.ids})).astype(np.int64)


def _with(known: pa.Table, ids: pa.Array) -> pa.Table:
    """`known` and behind it the other ids, in their order, as far as its type has them."""
    mine = known["item_id"].combine_chunks()
    others = like(canonical(ids), canonical(mine).type).drop_null()
    as_mine = others.cast(mine.type, safe=False)  # a narrower integer may have no such id
    is_same = pc.equal(canonical(as_mine), others)
    is_new = pc.invert(pc.is_in(others, value_set=canonical(mine)))
    more = as_mine.filter(pc.and_(is_same, is_new)).unique().sort()
    return pa.table({"item_id": pa.concat_arrays([mine, more])})
