"""The weights of an earlier night as the start of a training on tonight's items."""

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.vocab import reindexing

log = logging.getLogger(__name__)

ITEMS = "items.weight"  # the only weights with a row per item
# keys of a model that do not change what its other weights mean: one acts only in training, the
# other changes the copy score alone
NO_SHAPE = {"dropout": None, "similar_items": None}
COPY_SCORE = "copy_score."


def same_shape(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the weights of one model mean the same in the other, apart from the items and, where
    its shape is another one, the copy score.

    Args:
        one, other: sections `model` of resolved configurations.
    """
    return {**one, **NO_SHAPE} == {**other, **NO_SHAPE}


def carried_over(
    start: Checkpoint, vocab: pa.Table, *, config: ModelConfig, seed: int
) -> dict[str, Tensor]:
    """The weights of `start`, with the rows of the item embedding in the order of `vocab`.

    An item that `start` does not know gets the row that it would have from scratch. So does a copy
    score of another shape: all of it, as its parts mean nothing without each other.

    Args:
        config: of the model that is trained, `same_shape` as that of `start`.
        seed: of the initialisation from scratch.
    """
    model = SequenceModel(config, vocab.num_rows, seed=seed)
    row_V = torch.tensor(reindexing(vocab, start.vocab), dtype=torch.int64)  # -1: unknown there
    items_VD = model.item_weight.detach().clone()
    items_VD[row_V >= 0] = start.model.item_weight.detach()[row_V[row_V >= 0]]
    weights = {**start.model.state_dict(), ITEMS: items_VD}
    fresh = {n: t for n, t in model.state_dict().items() if n.startswith(COPY_SCORE)}
    if any(tensor.shape != weights[name].shape for name, tensor in fresh.items()):
        log.info(
            "pretrain: the start has a copy score of another shape (model.similar_items); it is "
            "trained from scratch, all other weights are taken over"
        )
        weights |= fresh
    return weights
