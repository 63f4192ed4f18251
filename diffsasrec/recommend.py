"""Histories -> lists, in this process: the whole of scoring but the files and the cluster.

Legend: B users, L history length, K list length, V items; histories are flat items with offsets.
"""

import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig
from diffsasrec.decode import (
    CommitRule,
    Lists,
    decode_autoregressive,
    decode_multi,
    decode_single,
)
from diffsasrec.errors import ConfigError
from diffsasrec.explore import Exploration
from diffsasrec.memory import in_batches
from diffsasrec.model.diffusion import MASK
from diffsasrec.model.features import end_ages, event_gaps
from diffsasrec.model.heads import own_pairs
from diffsasrec.model.transformer import History, SequenceModel
from diffsasrec.retrieve.catalogue import Candidates, Catalogue
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.sequences.histories import Items, Offsets, Times, UserItems, events_of
from diffsasrec.trace import Trace

HAVE_KERNELS = ("cuda",)  # devices on which `decoding.fused` means something


@dataclass(frozen=True)
class Decoding:
    """How lists are made; fields and their meaning are those of the configuration's `score`."""

    k: int
    decode: Literal["single", "multi", "autoregressive"] = "single"
    rank: Literal["next_item", "slot"] = "next_item"
    steps: int = 2
    rule: CommitRule = field(default_factory=CommitRule)
    lookahead: float = 0.5
    exploration: Exploration = field(default_factory=Exploration)
    shortlist: int = 512
    fused: bool = False
    filter_seen: bool = True
    batch_size: int = 256

    def __post_init__(self) -> None:
        explored = self.exploration.num_items
        if self.decode == "multi" and explored and (self.steps < 2 or explored >= self.k):
            raise ValueError(
                f"{explored} explored items take the last of {self.steps} steps and places of "
                f"{self.k}: at least one step and one place must be left"
            )

    @property
    def explores(self) -> bool:
        return self.decode == "multi" and self.exploration.num_items > 0


@dataclass(frozen=True)
class Moment:
    """The time for which lists are made, the split or the run date, and what is known as of it."""

    query_time: int  # microseconds
    trends: npt.NDArray[np.float32] | None  # [V, F], counters.trend_features; None: not used
    # [V], of a thousand single-step lists those that show it; None: exploring finds nothing rare
    shown: npt.NDArray[np.float32] | None = None


def newest(items: npt.NDArray[Any], offsets: Offsets, *, max_len: int) -> tuple[Tensor, Tensor]:
    """The last `max_len` items of each history, padded on the right with 0: [B, L], lengths [B]."""
    lengths_B = np.minimum(np.diff(offsets), max_len)
    place_L = np.arange(max(int(lengths_B.max(initial=1)), 1))
    source_BL = (offsets[1:] - lengths_B)[:, None] + place_L
    valid_BL = place_L < lengths_B[:, None]
    padded_BL = np.where(valid_BL, items[np.where(valid_BL, source_BL, 0)], 0) if len(items) else 0
    padded_BL = np.broadcast_to(padded_BL, valid_BL.shape).astype(np.int64)
    return torch.from_numpy(padded_BL), torch.from_numpy(lengths_B.astype(np.int64))


class Recommender:
    """Makes lists in this process, for one model, moment and set of allowed items.

    Args:
        allowed: what may be recommended at all, [V].
        cap: on the items of one category in a list.

    Raises:
        ConfigError: the model has no slots for such lists, or too few; `decoding.fused` on a GPU
            without Triton.

    The device is that of the model. What all users share is made once, here: the trends' columns of
    the item vectors, the packed catalogue.
    """

    def __init__(
        self,
        model: SequenceModel,
        *,
        moment: Moment,
        allowed: npt.NDArray[np.bool_],
        decoding: Decoding,
        cap: CategoryCap | None = None,
    ) -> None:
        _check_slots(decoding, model.config)
        self.model, self.decoding, self.query_time = model, decoding, moment.query_time
        self.num_uncertain = 0  # users and steps so far for which a shortlist was not enough
        self._device = model.item_weight.device
        # what a night with kernels has made can be made again without a GPU
        fused = decoding.fused and self._device.type in HAVE_KERNELS
        if fused and importlib.util.find_spec("triton") is None:
            raise ConfigError(
                "score.fused=true needs the package triton where lists are made; install it there, "
                "or set score.fused=false"
            )
        self._trends_VF = None
        if moment.trends is not None and model.trends is not None:
            self._trends_VF = self._tensor(moment.trends)
        with torch.inference_mode():
            self.catalogue = Catalogue(
                model.item_vectors(self._trends_VF),
                self._tensor(allowed),
                None if moment.shown is None else self._tensor(moment.shown),
                None if cap is None else cap.to(self._device),
                fused,
            )

    @torch.inference_mode()
    def recommend(
        self,
        items: Items,
        times: Times,
        offsets: Offsets,
        *,
        excluded: UserItems | None = None,
        trace: Trace | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Lists of items [B, K] (-1 behind the end), and log-probabilities as the next item.

        Args:
            items, times, offsets: whole histories; attention reads the newest events, the filter
                and the copy score all of them.
            excluded: what each user must not be shown besides.
            trace: takes the steps, of users that fit one batch.

        A list has K distinct items, or as many as are allowed and not filtered. Users are decoded
        in batches of similar length, which are halved where the memory does not suffice.
        """
        num_users, k = len(offsets) - 1, self.decoding.k
        assert trace is None or num_users <= self.decoding.batch_size, num_users
        all_items = np.full((num_users, k), -1, np.int64)
        all_scores = np.full((num_users, k), -np.inf, np.float32)
        excluded = excluded or UserItems.nothing(num_users)
        gaps = event_gaps(times, offsets)
        order = np.argsort(
            np.minimum(np.diff(offsets), self.model.config.max_seq_len), kind="stable"
        )

        def decode(start: int, stop: int) -> None:
            users = np.sort(order[start:stop])
            source, bounds = events_of(offsets, users)
            lists = self._batch(
                items[source],
                times[source],
                gaps[source],
                bounds,
                excluded.of_users(users),
                trace,
            )
            all_items[users] = lists.items_BK.cpu().numpy()
            all_scores[users] = lists.scores_BK.float().cpu().numpy()
            self.num_uncertain += lists.num_uncertain

        in_batches(num_users, decode, size=self.decoding.batch_size)
        return all_items, all_scores

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _candidates(
        self, items: Items, times: Times, offsets: Offsets, excluded: UserItems
    ) -> Candidates:
        blocked, own = [excluded], None
        if self.decoding.filter_seen:
            blocked.append(UserItems(items.astype(np.int64), offsets))
        elif self.model.copy_score is not None:
            query_times = np.full(len(offsets) - 1, self.query_time)
            pairs = own_pairs(items, times, offsets, query_times).to(self._device)
            trends_VF = self._trends_VF
            own = self.model.own_items(
                pairs, None if trends_VF is None else trends_VF[pairs.items_X]
            )
        return Candidates(
            self.catalogue,
            self._tensor(np.concatenate([pairs.owners() for pairs in blocked])),
            self._tensor(np.concatenate([pairs.items for pairs in blocked])),
            own,
        )

    def _batch(
        self,
        items: Items,
        times: Times,
        gaps: npt.NDArray[np.int64],
        offsets: Offsets,
        excluded: UserItems,
        trace: Trace | None,
    ) -> Lists:
        decoding = self.decoding
        candidates = self._candidates(items, times, offsets, excluded)
        states = _States.of(self, items, times, gaps, offsets)
        num_users = len(offsets) - 1
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
            rule=decoding.rule,
            lookahead=decoding.lookahead,
            exploration=decoding.exploration,
            rank=decoding.rank,
            shortlist=decoding.shortlist,
            trace=trace,
        )


def _check_slots(decoding: Decoding, model: ModelConfig) -> None:
    if decoding.decode == "multi" and model.kind == "sasrec":
        raise ConfigError(
            "decode=multi needs mask slots, which a model of kind sasrec has not; use single or "
            "autoregressive"
        )
    needs_slots = decoding.decode != "single" and model.kind == "diffusion"
    if needs_slots and decoding.k > model.num_slots:
        raise ConfigError(
            f"k={decoding.k} with decode={decoding.decode} needs a model with as many slots, this "
            f"one has num_slots={model.num_slots}; ask for fewer items, or use single"
        )


@dataclass(frozen=True)
class _States:
    """What a batch's histories say about the next item and about the slots."""

    model: SequenceModel
    items_BL: Tensor
    gaps_BL: Tensor
    lengths_B: Tensor
    ages_B: Tensor
    num_slots: int
    width: int  # of the item vectors

    @staticmethod
    def of(
        recommender: Recommender,
        items: Items,
        times: Times,
        gaps: npt.NDArray[np.int64],
        offsets: Offsets,
    ) -> "_States":
        model = recommender.model
        device, max_len = model.item_weight.device, model.config.max_seq_len
        items_BL, lengths_B = (x.to(device) for x in newest(items, offsets, max_len=max_len))
        gaps_BL = newest(gaps, offsets, max_len=max_len)[0].to(device)
        query_times = np.full(len(lengths_B), recommender.query_time)
        ages_B = torch.from_numpy(end_ages(times, offsets, query_times)).to(device)
        width = recommender.catalogue.vectors_VW.shape[1]
        num_slots = recommender.decoding.k
        return _States(model, items_BL, gaps_BL, lengths_B, ages_B, num_slots, width)

    @cached_property
    def history(self) -> History:
        return self.model.encode_for_slots(
            self.items_BL, self.lengths_B, self.gaps_BL, num_slots=self.num_slots
        )

    def slots(self, slots_BS: Tensor) -> Tensor:
        """The states of the masked slots, [R, W], by user and slot."""
        return self._wanted(slots_BS, slots_BS == MASK)

    def next(self, chosen_BJ: Tensor) -> Tensor:
        """The state of the item behind the history and the items chosen so far, [B, W]."""
        if self.model.config.kind == "diffusion":
            slots_BS = torch.nn.functional.pad(chosen_BJ, (0, 1), value=MASK)
            is_last_S = torch.arange(slots_BS.shape[1], device=slots_BS.device)
            is_last_S = is_last_S == chosen_BJ.shape[1]
            return self._wanted(slots_BS, is_last_S.expand_as(slots_BS))
        states_BD = _extended_states(
            self.model, self.items_BL, self.gaps_BL, self.lengths_B, chosen_BJ
        )
        return self.model.queries(states_BD, self.ages_B)[:, : self.width]

    def _wanted(self, slots_BS: Tensor, wanted_BS: Tensor) -> Tensor:
        states_RD = self.model.denoise_wanted(self.history, slots_BS, wanted_BS, ages_B=self.ages_B)
        return self.model.queries(states_RD)[:, : self.width]


def _extended_states(
    model: SequenceModel,
    items_BL: Tensor,
    gaps_BL: Tensor,
    lengths_B: Tensor,
    chosen_BJ: Tensor,
) -> Tensor:
    """The newest state of each history with `chosen_BJ` appended; a causal model has no slots.

    Positions are counted from the end, so that every appended item moves the others: the history
    is encoded anew. A user whose candidates ran out has -1 there; its state is not used.
    """
    num_chosen = chosen_BJ.shape[1]
    place_J = lengths_B[:, None] + torch.arange(num_chosen, device=items_BL.device)
    longer_BL = torch.nn.functional.pad(items_BL, (0, num_chosen))
    longer_BL = longer_BL.scatter(1, place_J, chosen_BJ.clamp(min=0))
    # when the chosen ones happen is not known
    longer_gaps_BL = torch.nn.functional.pad(gaps_BL, (0, num_chosen))
    longer_gaps_BL = longer_gaps_BL.scatter(1, place_J, torch.zeros_like(chosen_BJ))
    lengths_B = lengths_B + num_chosen
    excess_B = (lengths_B - model.config.max_seq_len).clamp(min=0)
    width = min(longer_BL.shape[1], model.config.max_seq_len)
    place_BL = excess_B[:, None] + torch.arange(width, device=items_BL.device)
    place_BL = place_BL.clamp(max=longer_BL.shape[1] - 1)
    return model.encode(
        longer_BL.gather(1, place_BL), lengths_B - excess_B, longer_gaps_BL.gather(1, place_BL)
    ).last_states()
