"""The losses of fine-tuning beside the scores that lists show: the two must be one number."""

from dataclasses import replace

import numpy as np
import torch
from histories import (
    MOMENT,
    NOW,
    NUM_ITEMS,
    TRENDS,
    Histories,
    lists_of,
    times_of,
)

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import ObjectiveConfig
from diffsasrec.counters.similar import Similar
from diffsasrec.model.features import event_gaps
from diffsasrec.model.objective import Objective
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import Events, Examples, Part


def fine_tuning_examples(histories: Histories, targets: list[int]) -> tuple[Events, Examples]:
    """Every history with its target behind it, and an example of each with the boundary between."""
    items, flat_times, lengths = [], [], [len(history) + 1 for history in histories]
    for history, target in zip(histories, targets, strict=True):
        items += [*history, target]
        flat_times += [*times_of(history), NOW]
    offsets = np.cumsum([0, *lengths])
    times = np.array(flat_times, np.int64)
    first, boundary = offsets[:-1], offsets[1:] - 1
    examples = Examples(
        np.maximum(boundary - 6, first),
        boundary,
        offsets[1:],
        first=first,
        query=np.ones(len(first), np.int64),
        basket_end=boundary + 1,
    )
    return Events(np.array(items, np.int32), times, event_gaps(times, offsets)), examples


def losses_and_scores(
    model: SequenceModel,
    histories: Histories,
    targets: list[int],
    *,
    filter_seen: bool,
    similar: Similar | None = None,
) -> tuple[list[float], list[float]]:
    """The loss of each example of fine-tuning, and the score of its target in the user's list."""
    events, examples = fine_tuning_examples(histories, targets)
    # the table of another batch time must not be used
    trends_QVF = torch.from_numpy(np.stack([TRENDS[::-1], TRENDS]))
    objective = Objective(
        model, torch.ones(NUM_ITEMS).bool(), trends_QVF, filter_seen=filter_seen
    ).eval()
    losses = []
    for row in range(len(histories)):
        batch = make_batch(
            events,
            Part.whole(examples.take(np.array([row]))),
            query_times=np.array([0, NOW]),
            model=model.config,
            objective=ObjectiveConfig(next_item=0.0, random_mask=0.0, suffix_mask=1.0),
            generator=torch.Generator().manual_seed(0),
            filter_seen=filter_seen,
            similar=None if similar is None else {1: similar}.__getitem__,
        )
        losses.append(float(sum(objective(batch, None)).detach()))
    decoding = DecodingConfig(k=NUM_ITEMS, filter_seen=filter_seen)
    moment = replace(MOMENT, similar=similar)
    items, scores = lists_of(model, histories, decoding, moment=moment)
    return losses, [
        float(scores[row][items[row] == target][0]) for row, target in enumerate(targets)
    ]
