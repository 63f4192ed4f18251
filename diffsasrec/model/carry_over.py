"""The weights of an earlier night as the start of a training on tonight's items."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.vocab import reindexing

ITEMS = "items.weight"  # the only weights with a row per item
NO_SHAPE = "dropout"  # the only key of a model that acts only in training


def same_shape(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the weights of one model mean the same in the other, apart from the items.

    Args:
        one, other: sections `model` of resolved configurations.
    """
    return {**one, NO_SHAPE: None} == {**other, NO_SHAPE: None}


def carried_over(start: Checkpoint, vocab: pa.Table, *, seed: int) -> dict[str, Tensor]:
    """The weights of `start`, with the rows of the item embedding in the order of `vocab`.

    An item that `start` does not know gets the row that it would have from scratch.

    Args:
        seed: of the initialisation from scratch.
    """
    model = SequenceModel(start.model.config, vocab.num_rows, seed=seed)
    row_V = torch.tensor(reindexing(vocab, start.vocab), dtype=torch.int64)  # -1: unknown there
    items_VD = model.item_weight.detach().clone()
    items_VD[row_V >= 0] = start.model.item_weight.detach()[row_V[row_V >= 0]]
    return {**start.model.state_dict(), ITEMS: items_VD}
