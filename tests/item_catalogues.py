"""A few items with categories, for tests of the tables of items."""

import numpy as np
import pyarrow as pa

from diffsasrec.item_tables.all_items import AllItems

FRUIT, TOOL = "fruit", "tool"
KINDS = {"apple": FRUIT, "pear": FRUIT, "plum": FRUIT, "hammer": TOOL, "saw": TOOL, "glue": None}
IDS = list(KINDS)


def items_of(*, denied: tuple[str, ...] = (), new: tuple[str, ...] = ()) -> AllItems:
    """All of `KINDS`, which weights and log know, and new fruits that only the metadata has."""
    vocab = pa.table({"item_id": IDS})
    metadata = pa.table(
        {
            "item_id": [*new, *IDS],
            "title": pa.nulls(len(new) + len(IDS), pa.string()),
            "category": [FRUIT] * len(new) + list(KINDS.values()),
        }
    )
    allowed = np.array([item not in denied for item in IDS])
    return AllItems.of(vocab, vocab, allowed, metadata)
