"""Lists by a counter, for nights whose model is worse than it; the rules are the same.

The score of an item is the logarithm of its part of all that the counter gives to what may be
recommended. So a counter is popularity for everyone, a catalogue with vectors of width 1, and what
is added for pairs of user and item.

Legend: V items, B users, K list length, X pairs (user, item), R rows, P pairs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.strategies import decode_single
from diffsasrec.decode.trace import Trace
from diffsasrec.evaluate.baselines import Popularity
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.evaluate.decayed_baselines import DecayedAndPopular
from diffsasrec.files.storage import Storage
from diffsasrec.memory import in_batches
from diffsasrec.model.checkpoint import parse_tensors, save_tensors
from diffsasrec.model.heads.pairs import Extras, pairs_of_rows
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.sequences.histories import (
    Histories,
    Items,
    Offsets,
    Times,
    UserItems,
    blocked_pairs,
)
from diffsasrec.typed_events import TypedEvents

LEAST = 1e-9  # share of all-time popularity that is added: the order of what else has no score
FLOOR = 1e-30  # of an item that never occurred

Shares = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Counted:
    """What a counter has counted as of the time of its lists."""

    popularity_V: Shares  # as its settings say, adds up to 1
    all_time_V: Shares  # likewise, of all time
    similarity: scipy.sparse.csr_matrix | None  # [V, V]; None: no similar items

    def write(self, storage: Storage, path: str) -> None:
        arrays = {"popularity": self.popularity_V, "all_time": self.all_time_V}
        if self.similarity is not None:
            arrays |= {name: getattr(self.similarity, name) for name in PARTS}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        save_tensors(storage, path, tensors, {})

    @classmethod
    def read(cls, storage: Storage, path: str) -> "Counted":
        """Raises FileNotFoundError."""
        tensors, _ = parse_tensors(storage.read_bytes(path))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        similarity, num_items = None, len(arrays["popularity"])
        if PARTS[0] in arrays:
            parts = tuple(arrays[name] for name in PARTS)
            similarity = scipy.sparse.csr_matrix(parts, (num_items, num_items))
        return cls(arrays["popularity"], arrays["all_time"], similarity)

    def reindexed(self, index_V: npt.NDArray[np.int32], num_items: int) -> "Counted":
        """The same by the indices of another vocabulary; items with -1 are left out."""
        known = index_V >= 0

        def moved(old_V: Shares) -> Shares:
            new_V = np.zeros(num_items, np.float32)
            new_V[index_V[known]] = old_V[known]
            return new_V

        similarity = self.similarity
        if similarity is not None:
            similarity = _moved(similarity, index_V, num_items)
        return Counted(moved(self.popularity_V), moved(self.all_time_V), similarity)


PARTS = ("data", "indices", "indptr")


def _moved(
    similarity: scipy.sparse.csr_matrix, index_V: npt.NDArray[np.int32], num_items: int
) -> scipy.sparse.csr_matrix:
    entries = similarity.tocoo()
    row, column = index_V[entries.row], index_V[entries.col]
    kept = (row >= 0) & (column >= 0)
    pairs = (entries.data[kept], (row[kept], column[kept]))
    return scipy.sparse.csr_matrix(pairs, (num_items, num_items))


class CounterLists:
    """Makes lists by a counter as `Recommender` makes them by a model.

    Args:
        allowed: what may be recommended at all, [V].
        cap: limit on the items of one category in a list.
        boost: of each item, added to the logarithm of its share, [V]; None: no item has one.
    """

    def __init__(
        self,
        settings: CounterSettings,
        counted: Counted,
        *,
        query_time: int,
        allowed: npt.NDArray[np.bool_],
        decoding: DecodingConfig,
        cap: CategoryCap | None = None,
        boost: Shares | None = None,
    ) -> None:
        self.decoding, self.num_uncertain = decoding, 0
        self._beside = None
        if settings.beside is not None:
            self._beside = DecayedAndPopular(
                Popularity(counted.popularity_V),
                query_time,
                settings.decay_of_events,
                settings.popularity,
                counted.similarity,
            )
        base_V = settings.popularity * counted.popularity_V.astype(np.float64)
        self._base_V = base_V + LEAST * counted.all_time_V + FLOOR
        logits_V = np.log(self._base_V).astype(np.float32)
        if boost is not None:
            logits_V += boost
        logits_V1 = torch.from_numpy(logits_V)[:, None]
        self._catalogue = Catalogue(logits_V1, torch.from_numpy(allowed), cap=cap)

    def recommend(
        self,
        items: Items,
        times: Times,
        offsets: Offsets,
        *,
        types: TypedEvents | None = None,
        excluded: UserItems | None = None,
        trace: Trace | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Lists of items [B, K] (-1 after the end), and the logarithms of their shares.

        Args:
            items, times, offsets: whole histories.
            types: of the events, of a log with types.
            excluded: other items that each user must not be shown.
            trace: records the step; the users must fit one batch.
        """
        num_users, k = len(offsets) - 1, self.decoding.k
        assert trace is None or num_users <= self.decoding.batch_size, num_users
        all_items = np.full((num_users, k), -1, np.int64)
        all_scores = np.full((num_users, k), -np.inf, np.float32)
        excluded = excluded or UserItems.nothing(num_users)
        histories = Histories(items, times, offsets, types)

        def make(start: int, stop: int) -> None:
            users = np.arange(start, stop)
            candidates = self._candidates(histories.of_users(users), excluded.of_users(users))
            made = decode_single(torch.ones(len(users), 1), candidates, k=k, trace=trace)
            all_items[users], all_scores[users] = made.items_BK.numpy(), made.scores_BK.numpy()

        in_batches(num_users, make, size=self.decoding.batch_size)
        return all_items, all_scores

    def _candidates(self, histories: Histories, excluded: UserItems) -> Candidates:
        users, items = blocked_pairs(histories, excluded, filter_seen=self.decoding.filter_seen)
        return Candidates(
            self._catalogue,
            torch.from_numpy(users),
            torch.from_numpy(items),
            None if self._beside is None else self._added(self._beside, histories),
        )

    def _added(self, beside: DecayedAndPopular, histories: Histories) -> "_Added":
        shares = beside.of_users(histories, len(self._base_V))
        shares.sort_indices()
        users_X = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr))
        items_X = shares.indices.astype(np.int64)
        added_X = np.log1p(shares.data / self._base_V[items_X]).astype(np.float32)
        return _Added(*(torch.from_numpy(array) for array in (users_X, items_X, added_X)))


@dataclass(frozen=True)
class _Added:
    """What is added to the logits of pairs (user, item), sorted by user, then item: OwnScores."""

    users_X: Tensor
    items_X: Tensor
    scores_X: Tensor

    def of_rows(self, queries_RW: Tensor, users_R: Tensor) -> Extras:
        rows_Y, at_Y = pairs_of_rows(users_R, self.users_X)
        return Extras(rows_Y, self.items_X[at_Y], self.scores_X[at_Y])

    def among(self, users_P: Tensor, items_P: Tensor) -> "_Added":
        keys_X, keys_P = self.users_X * 2**40 + self.items_X, users_P * 2**40 + items_P
        (kept,) = torch.isin(keys_X, keys_P).nonzero(as_tuple=True)
        return _Added(self.users_X[kept], self.items_X[kept], self.scores_X[kept])

    def rise(self, before_RW: Tensor, after_RW: Tensor) -> Tensor:
        return before_RW.new_zeros(len(before_RW))  # no query changes them
