"""How good a model is while it is trained, on the time cut that training may see."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.evaluate.metrics import count_ranks, rank_metrics, ranks_of
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Flat
from diffsasrec.sequences.holdout import holdout_between
from diffsasrec.train.ranks import Worker


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
    held = holdout_between(flat.histories, cut=cut, before=before, known=known)
    recommender = Recommender(
        model,
        moment=Moment(cut, trends),
        allowed=known,
        decoding=DecodingConfig(k=10, filter_seen=filter_seen),
    )
    past = held.past
    lists, _ = recommender.recommend(past.items, past.times, past.offsets)
    return ranks_of(lists, held.targets)


@torch.no_grad()
def validation_ndcg(
    model: SequenceModel,
    weights: dict[str, Tensor],
    mine: Iterable[Flat],
    *,
    ranks_in: Callable[[Flat], npt.NDArray[np.int64]],
    worker: Worker,
) -> float:
    """NDCG@10 of a model with other weights, over the buckets of all ranks.

    The model keeps its own weights, and is left as it is for measuring.

    Args:
        mine: the buckets of this rank.
        ranks_in: `validation_ranks` of the model in one bucket.
    """
    current = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.load_state_dict(weights)
    model.eval()
    ranks = [np.zeros(0, np.int64), *map(ranks_in, mine)]
    model.load_state_dict(current)
    counts = count_ranks(np.concatenate(ranks), k=10)
    summed = worker.sum([float(count) for count in counts])
    return rank_metrics(np.array(summed), k=10)["NDCG@10"]
