"""How good a model is while it is trained, on the time cut that training may see."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from diffsasrec.decode.decoding import Decoding
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.evaluate.metrics import ranks_of
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Flat, events_of, restrict
from diffsasrec.sequences.holdout import count_before, find_holdout


def validation_ranks(
    model: SequenceModel,
    flat: Flat,
    *,
    cut: int,
    before: int,
    trends: npt.NDArray[np.float32] | None,
    known: npt.NDArray[np.bool_],
    filter_seen: bool,
) -> npt.NDArray[np.int64]:
    """Ranks of each user's first known item in [cut, before) among the model's ten best.

    Args:
        flat: without the items that take no part in the training.
        trends: as of `cut`, [V, F].
    """
    items, times, offsets = restrict(flat, count_before(flat.times, flat.offsets, before))
    num_before, position, _ = find_holdout(items, times, offsets, split_time=cut, known=known)
    shown = replace(flat, items=items, times=times, offsets=offsets)
    users = np.flatnonzero(position >= 0)
    past, past_times, bounds = restrict(shown, num_before)
    source, bounds = events_of(bounds, users)
    recommender = Recommender(
        model,
        moment=Moment(cut, trends),
        allowed=known,
        decoding=Decoding(k=10, filter_seen=filter_seen),
    )
    lists, _ = recommender.recommend(past[source], past_times[source], bounds)
    return ranks_of(lists, items[offsets[users] + position[users]].astype(np.int64))
