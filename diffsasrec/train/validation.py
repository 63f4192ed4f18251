"""How good a model is while it is trained, on the time cut that training may see."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters.similar import Similar
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.evaluate.metrics import user_gains
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Flat
from diffsasrec.sequences.holdout import holdout_between
from diffsasrec.train.ranks import Worker

ONE = 2.0**24


def validation_gains(
    model: SequenceModel,
    flat: Flat,
    *,
    cut: int,
    before: int,
    trends: npt.NDArray[np.float32] | None,
    known: npt.NDArray[np.bool_],
    filter_seen: bool,
    similar: Similar | None = None,
) -> npt.NDArray[np.float64]:
    """NDCG@10 of each user with a known item in [cut, before).

    Args:
        flat: without the items that take no part in the training.
        trends: as of `cut`, [V, F].
        similar: as of `cut`.
    """
    held = holdout_between(flat.histories, cut=cut, before=before, known=known)
    recommender = Recommender(
        model,
        moment=Moment(cut, trends, similar=similar),
        allowed=known,
        decoding=DecodingConfig(k=10, filter_seen=filter_seen),
    )
    past = held.past
    lists, _ = recommender.recommend(past.items, past.times, past.offsets)
    return user_gains(lists, held.targets, k=10)["NDCG@10"]


@torch.no_grad()
def validation_ndcg(
    model: SequenceModel,
    weights: dict[str, Tensor],
    mine: Iterable[Flat],
    *,
    gains_in: Callable[[Flat], npt.NDArray[np.float64]],
    worker: Worker,
) -> float:
    """NDCG@10 of a model with other weights, over the buckets of all ranks.

    The model keeps its own weights, and is left as it is for measuring.

    Args:
        mine: the buckets of this rank.
        gains_in: `validation_gains` of the model in one bucket.
    """
    current = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.load_state_dict(weights)
    model.eval()
    gains_U = np.concatenate([np.zeros(0), *map(gains_in, mine)])
    model.load_state_dict(current)
    # in whole numbers the sum is the same, however many ranks the buckets are spread over
    total, num_users = worker.sum([float(np.rint(gains_U * ONE).sum()), float(len(gains_U))])
    return total / ONE / max(num_users, 1.0)
