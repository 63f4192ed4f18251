"""Histories -> lists, in this process: all of pairing except the files and the cluster.

Legend: B users, L history length, K list length, V items; histories are flat items with offsets.
"""

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters.pairs import Pairing, scored_pairs
from diffsasrec.counters.popular import popular_items
from diffsasrec.decode.commit_rule import CommitRule
from diffsasrec.decode.encoded_histories import EncodedHistories
from diffsasrec.decode.exploration import Exploration
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.multi_step import decode_multi
from diffsasrec.decode.strategies import Lists, decode_autoregressive, decode_single
from diffsasrec.decode.trace import Trace
from diffsasrec.errors import ConfigError
from diffsasrec.memory import in_batches
from diffsasrec.model.heads.copy_score import OwnItems
from diffsasrec.model.transformer import SequenceModel
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

HAVE_KERNELS = ("cuda",)  # devices on which `decoding.fused` has an effect


class Recommender:
    """Makes lists in this process, for one model, moment and set of allowed items.

    Args:
        allowed: what may be recommended at all, [V].
        cap: limit on the items of one category in a list.

    Raises:
        ConfigError: the model has no slots for such lists, or too few; `decoding.fused` on a GPU
            without Triton.

    It works on the device of the model. What all users share is made here, once: the trend columns
    of the item vectors, a column with the boosts, and the packed catalogue.
    """

    def __init__(
        self,
        model: SequenceModel,
        *,
        moment: Moment,
        allowed: npt.NDArray[np.bool_],
        decoding: DecodingConfig,
        cap: CategoryCap | None = None,
    ) -> None:
        decoding.check_slots(model.config)
        self.model, self.decoding, self.query_time = model, decoding, moment.query_time
        self._similar = moment.similar
        self.num_uncertain = 0  # users and steps so far for which the shortlist was not enough
        self._device = model.item_weight.device
        # lists of a night with kernels can be made again without a GPU
        fused = decoding.fused and self._device.type in HAVE_KERNELS
        if fused and importlib.util.find_spec("triton") is None:
            raise ConfigError(
                "score.fused=true needs the package triton where lists are made; install it there, "
                "or set score.fused=false"
            )
        self._trends_VF, self._popular = None, None
        if moment.trends is not None and float(model.ranker_weight):
            self._popular = popular_items(moment.trends)
        if moment.trends is not None and model.trends is not None:
            self._trends_VF = self._tensor(moment.trends)
        with torch.inference_mode():
            vectors_VW = model.item_vectors(self._trends_VF)
            self._width = vectors_VW.shape[1]
            if moment.boost is not None:
                boost_V = self._tensor(moment.boost).to(vectors_VW.dtype)
                vectors_VW = torch.cat([vectors_VW, boost_V[:, None]], dim=1)
            self.catalogue = Catalogue(
                vectors_VW,
                self._tensor(allowed),
                None if moment.shown is None else self._tensor(moment.shown),
                None if cap is None else cap.to(self._device),
                fused,
                is_boosted=moment.boost is not None,
            )

    @torch.inference_mode()
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
        """Lists of items [B, K] (-1 after the end), and log-probabilities as the next item.

        Args:
            items, times, offsets: whole histories; attention reads the newest events, the filter
                and the copy score read all of them.
            types: of the events, those that the model was trained on.
            excluded: other items that each user must not be shown.
            trace: records the steps; the users must fit one batch.

        A list has K distinct items, or as many as are allowed and not filtered. Users are decoded
        in batches of similar length, which are halved if memory runs out.
        """
        num_users, k = len(offsets) - 1, self.decoding.k
        assert trace is None or num_users <= self.decoding.batch_size, num_users
        all_items = np.full((num_users, k), -1, np.int64)
        all_scores = np.full((num_users, k), -np.inf, np.float32)
        excluded = excluded or UserItems.nothing(num_users)
        histories = Histories(items, times, offsets, types)
        length_B = np.minimum(histories.lengths(), self.model.config.max_seq_len)
        order = np.argsort(length_B, kind="stable")

        def decode(start: int, stop: int) -> None:
            users = np.sort(order[start:stop])
            lists = self._batch(histories.of_users(users), excluded.of_users(users), trace)
            all_items[users] = lists.items_BK.cpu().numpy()
            all_scores[users] = lists.scores_BK.float().cpu().numpy()
            self.num_uncertain += lists.num_uncertain

        in_batches(num_users, decode, size=self.decoding.batch_size)
        return all_items, all_scores

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _candidates(self, histories: Histories, excluded: UserItems) -> Candidates:
        users, items = blocked_pairs(histories, excluded, filter_seen=self.decoding.filter_seen)
        return Candidates(
            self.catalogue,
            self._tensor(users),
            self._tensor(items),
            self._scored(histories),
        )

    def _scored(self, histories: Histories) -> OwnItems | None:
        """The items with a copy score; None: it is not used."""
        if self.model.copy_score is None:
            return None
        query_times_B = np.full(len(histories.offsets) - 1, self.query_time)
        pairing = Pairing.of(self.model.config, filter_seen=self.decoding.filter_seen)
        pairs = scored_pairs(histories, query_times_B, self._similar, pairing, self._popular)
        if pairs is None:
            return None
        pairs, trends_VF = pairs.to(self._device), self._trends_VF
        return self.model.own_items(pairs, None if trends_VF is None else trends_VF[pairs.items_X])

    def _batch(self, histories: Histories, excluded: UserItems, trace: Trace | None) -> Lists:
        decoding, num_users = self.decoding, len(histories.offsets) - 1
        candidates = self._candidates(histories, excluded)
        states = EncodedHistories.of(
            self.model,
            histories,
            query_time=self.query_time,
            num_slots=decoding.k,
            width=self._width,
            is_boosted=self.catalogue.is_boosted,
        )
        if decoding.decode == "autoregressive":
            return decode_autoregressive(
                states.next,
                candidates,
                num_users=num_users,
                k=decoding.k,
                rank=decoding.rank,
                trace=trace,
            )
        nothing = torch.zeros((num_users, 0), dtype=torch.int64, device=self._device)
        next_BW = states.next(nothing)
        if decoding.decode == "single":
            return decode_single(next_BW, candidates, k=decoding.k, trace=trace)
        return decode_multi(
            next_BW,
            states.slots,
            candidates,
            k=decoding.k,
            steps=decoding.steps,
            rule=CommitRule.of(decoding),
            lookahead=decoding.lookahead,
            exploration=Exploration.of(decoding),
            rank=decoding.rank,
            shortlist=decoding.shortlist,
            trace=trace,
        )
