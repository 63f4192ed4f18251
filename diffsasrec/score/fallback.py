"""The fallback: the most popular items that a user may be shown.

Legend: B users, K list length, V items of the checkpoint, X pairs (user, item).
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.retrieve.top_k import top_items
from diffsasrec.sequences.vocab import index_items

FEW = 4096  # items among which nearly every list is complete


def log_shares(
    recent: npt.NDArray[np.int64], all_time: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The log of each item's share of recent events, [V], -inf for an item that never occurs.

    One more event is spread over the items by their share of all time. It orders the items that
    nobody touched lately, and is all there is if the window is empty.
    """
    spread = recent + all_time / max(all_time.sum(), 1)
    with np.errstate(divide="ignore"):
        return np.log(spread / max(spread.sum(), 1)).astype(np.float32)


class PopularLists:
    """Makes fallback lists.

    Only `allowed` items may be shown, in these lists as in the model's. Weights that serve for
    several nights know items that tonight's log lacks. Those come last.

    Args:
        log_share: of each item of `run_vocab`, `log_shares`.
        vocab: of the checkpoint, whose indices the lists have.
        allowed: what may be recommended at all, [V].
        boost: of each item, added to its log share, [V]; None: no item has one.
    """

    def __init__(
        self,
        log_share: npt.NDArray[np.float32],
        run_vocab: pa.Table,
        vocab: pa.Table,
        *,
        allowed: npt.NDArray[np.bool_],
        cap: CategoryCap | None,
        boost: npt.NDArray[np.float32] | None = None,
    ) -> None:
        occurs = np.isfinite(log_share)
        last = np.nextafter(log_share[occurs].min(initial=0), np.float32(-np.inf))
        index = index_items(run_vocab["item_id"].combine_chunks(), vocab)
        known = occurs & (index >= 0)
        scores = np.full(len(allowed), last, np.float32)
        scores[index[known]] = log_share[known]
        if boost is not None:
            scores += boost
        few = np.zeros(len(scores), bool)
        few[np.argsort(np.where(allowed, -scores, np.inf), kind="stable")[:FEW]] = True
        vectors_V1 = torch.from_numpy(scores)[:, None]
        self._few, self._all = (
            Catalogue(vectors_V1, torch.from_numpy(mask), cap=cap)
            for mask in (allowed & few, allowed)
        )

    def lists(
        self,
        blocked_users: npt.NDArray[np.int64],
        blocked_items: npt.NDArray[np.int64],
        *,
        num_users: int,
        k: int,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The K most popular items for each user and the log of their shares, boosted, [B, K].

        Ties in the order of the item index; -1 and -inf after the end.

        Args:
            blocked_users, blocked_items: pairs that must not be shown, [X].
        """
        users_X, items_X = torch.from_numpy(blocked_users), torch.from_numpy(blocked_items)
        items_BK, scores_BK = _lists(self._few, users_X, items_X, num_users, k)
        # complete lists can't differ: what was left out is less popular
        short_B = items_BK[:, -1] < 0
        num_short = int(short_B.sum())
        if num_short and len(self._few.items_C) < len(self._all.items_C):
            place_B = short_B.cumsum(0) - 1
            kept_X = short_B[users_X]
            items_BK[short_B], scores_BK[short_B] = _lists(
                self._all, place_B[users_X[kept_X]], items_X[kept_X], num_short, k
            )
        return items_BK.numpy(), scores_BK.numpy()


def _lists(
    catalogue: Catalogue, users_X: Tensor, items_X: Tensor, num_users: int, k: int
) -> tuple[Tensor, Tensor]:
    top = top_items(
        torch.ones(num_users, 1),
        torch.arange(num_users),
        Candidates(catalogue, users_X, items_X),
        k,
    )
    return top.items_RM, top.logits_RM
