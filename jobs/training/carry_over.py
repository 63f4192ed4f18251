"""The weights of an earlier night as the start of a training on tonight's items."""

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig
from diffsasrec.event_types import EventTypes
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.vocab import reindexing

log = logging.getLogger(__name__)

ITEMS = "items.weight"  # the only weights with a row per item
# keys of a model that do not change what its other weights mean: one acts only in training, the
# others change the scores of pairs alone
NO_SHAPE = {"dropout": None, "similar_items": None, "nearest_users": None, "ranker": None}
OF_PAIRS = ("copy_score.", "ranker.")
OF_TYPES = "types.weight"  # with a row per type of event


def same_shape(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the weights of one model mean the same in the other, apart from the items and, where
    their shape is another one, the scores of pairs.

    Args:
        one, other: sections `model` of resolved configurations.
    """
    return {**one, **NO_SHAPE} == {**other, **NO_SHAPE}


def carried_over(
    start: Checkpoint,
    vocab: pa.Table,
    *,
    config: ModelConfig,
    seed: int,
    types: EventTypes | None = None,
) -> dict[str, Tensor]:
    """The weights of `start`, with the rows of the item embedding in the order of `vocab`.

    An item that `start` does not know gets the row that it would have from scratch. So does a score
    of pairs of another shape: all of it, as its parts mean nothing without each other.

    Args:
        config: of the model that is trained, `same_shape` as that of `start`.
        seed: of the initialisation from scratch.
        types: of tonight's events, of a log with types. A type that `start` does not know starts at
            0, as from scratch.
    """
    model = SequenceModel(config, vocab.num_rows, seed=seed, types=types)
    row_V = torch.tensor(reindexing(vocab, start.vocab), dtype=torch.int64)  # -1: unknown there
    items_VD = model.item_weight.detach().clone()
    items_VD[row_V >= 0] = start.model.item_weight.detach()[row_V[row_V >= 0]]
    weights = {**start.model.state_dict(), ITEMS: items_VD}
    weights.pop(OF_TYPES, None)
    if types is not None:
        weights[OF_TYPES] = _of_types(start.model, types)
    _say_types(start.model.event_types, types)
    for part in OF_PAIRS:
        _carry_score(part, weights, model)
    return weights


def _carry_score(part: str, weights: dict[str, Tensor], model: SequenceModel) -> None:
    """Gives `weights` the fresh score of pairs of `model` where theirs has another shape."""
    fresh = {n: t for n, t in model.state_dict().items() if n.startswith(part)}
    theirs = {n: weights.pop(n) for n in [*weights] if n.startswith(part)}
    same = {n: t.shape for n, t in fresh.items()} == {n: t.shape for n, t in theirs.items()}
    if fresh and not same:
        log.info(
            "pretrain: the start has no %s of this shape (model.similar_items, "
            "model.nearest_users, model.ranker); it is trained from scratch, all other weights are "
            "taken over",
            part.rstrip(".").replace("_", " "),
        )
    weights |= theirs if same else fresh


def _of_types(start: SequenceModel, types: EventTypes) -> Tensor:
    """The rows of the types by their names; 0 for those that the start does not know."""
    rows = torch.zeros(len(types.names), start.item_weight.shape[1])
    if start.event_types is not None and start.types is not None:
        for row, name in enumerate(types.names):
            if name in start.event_types.names:
                rows[row] = start.types.weight.detach()[start.event_types.names.index(name)]
    return rows


def _say_types(theirs: EventTypes | None, mine: EventTypes | None) -> None:
    if theirs == mine:
        return
    known, wanted = (set() if types is None else {*types.names} for types in (theirs, mine))
    log.info(
        "pretrain: the start was trained on events of other types, or of other weights or targets "
        "(events.types): taken over: %s; new: %s; left out: %s",
        *(
            ", ".join(sorted(some)) or "none"
            for some in (known & wanted, wanted - known, known - wanted)
        ),
    )
