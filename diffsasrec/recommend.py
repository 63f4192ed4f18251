"""Histories -> lists, in this process: the whole of scoring but the files and the cluster.

Legend: B users, L history length, K list length, V items; histories are flat items with offsets.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.counters import end_ages, event_gaps, log_recent_popularity, own_items
from diffsasrec.decode import (
    Candidates,
    CommitRule,
    Lists,
    decode_autoregressive,
    decode_multi,
    decode_single,
)
from diffsasrec.diffusion import MASK, Extras
from diffsasrec.explore import Exploration, history_keys
from diffsasrec.model import Pairs, SequenceModel

Items = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]  # microseconds
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decoding:
    """How lists are made; fields and their meaning are those of the configuration's `score`."""

    k: int
    decode: Literal["single", "multi", "autoregressive"] = "single"
    rank: Literal["next_item", "sum", "slot"] = "next_item"
    discount: float = 0.7
    steps: int = 2
    rule: CommitRule = field(default_factory=CommitRule)
    lookahead: float = 0.5
    exploration: Exploration = field(default_factory=Exploration)
    filter_seen: bool = True
    batch_size: int = 256

    def __post_init__(self) -> None:
        explored = self.exploration.num_items
        if self.decode == "multi" and explored and (self.steps < 2 or explored >= self.k):
            raise ValueError(
                f"{explored} explored items take the last of {self.steps} steps and places of "
                f"{self.k}: at least one step and one place must be left"
            )


@dataclass(frozen=True)
class Moment:
    """The time for which lists are made, the split or the run date, and the trends as of it."""

    query_time: int  # microseconds
    # [V, F], counters.trend_features; None: not used, and exploring knows no popularity
    trends: npt.NDArray[np.float32] | None


def newest(items: npt.NDArray[Any], offsets: Offsets, *, max_len: int) -> tuple[Tensor, Tensor]:
    """The last `max_len` items of each history, padded on the right with 0: [B, L], lengths [B]."""
    lengths_B = np.minimum(np.diff(offsets), max_len)
    place_L = np.arange(max(int(lengths_B.max(initial=1)), 1))
    source_BL = (offsets[1:] - lengths_B)[:, None] + place_L
    valid_BL = place_L < lengths_B[:, None]
    padded_BL = np.where(valid_BL, items[np.where(valid_BL, source_BL, 0)], 0) if len(items) else 0
    padded_BL = np.broadcast_to(padded_BL, valid_BL.shape).astype(np.int64)
    return torch.from_numpy(padded_BL), torch.from_numpy(lengths_B.astype(np.int64))


@torch.inference_mode()
def recommend(
    model: SequenceModel,
    items: Items,
    times: Times,
    offsets: Offsets,
    *,
    moment: Moment,
    allowed: npt.NDArray[np.bool_],
    decoding: Decoding,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lists of items [B, K] (-1 behind the end) and their scores, log-probabilities as next item.

    Args:
        items, times, offsets: whole histories; attention reads the newest events, the filter and
            the copy score all of them.
        allowed: what may be recommended at all, [V].

    A list has K distinct items, or as many as are allowed and not filtered. The device is that of
    the model. Users are decoded in batches of similar length.
    """
    num_users = len(offsets) - 1
    max_len = model.config.max_seq_len
    all_items = np.full((num_users, decoding.k), -1, np.int64)
    all_scores = np.full((num_users, decoding.k), -np.inf, np.float32)
    device = model.item_weight.device
    trends_VF = None
    if moment.trends is not None and model.trends is not None:
        trends_VF = torch.from_numpy(moment.trends).to(device)
    log_popularity_V = None
    if moment.trends is not None:
        log_popularity_V = torch.from_numpy(log_recent_popularity(moment.trends)).to(device)
    gaps = event_gaps(times, offsets)
    scoring = _Scoring(
        model,
        model.item_vectors(trends_VF),
        trends_VF,
        torch.from_numpy(allowed).to(device),
        log_popularity_V,
        decoding,
        moment.query_time,
    )
    order = np.argsort(np.minimum(np.diff(offsets), max_len), kind="stable")
    for start in range(0, num_users, decoding.batch_size):
        users = np.sort(order[start : start + decoding.batch_size])
        source, bounds = events_of(offsets, users)
        lists = _recommend_batch(scoring, items[source], times[source], gaps[source], bounds)
        all_items[users] = lists.items_BK.cpu().numpy()
        all_scores[users] = lists.scores_BK.float().cpu().numpy()
    return all_items, all_scores


def events_of(
    offsets: Offsets, users: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], Offsets]:
    """Where the events of some users lie, in the order given, and the offsets among them."""
    return stretches(offsets[:-1][users], offsets[1:][users])


def stretches(
    start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], Offsets]:
    """The places [start, end) of each row one after another, and the offsets of the rows."""
    bounds = np.r_[0, np.cumsum(end - start)].astype(np.int64)
    source = np.repeat(start - bounds[:-1], end - start) + np.arange(bounds[-1])
    return source, bounds


@dataclass(frozen=True)
class _Scoring:
    """What all batches share."""

    model: SequenceModel
    vectors_VW: Tensor
    trends_VF: Tensor | None
    allowed_V: Tensor
    log_popularity_V: Tensor | None
    decoding: Decoding
    query_time: int


def own_pairs(items: Items, times: Times, offsets: Offsets, query_times: Times) -> Pairs:
    """`counters.own_items` as tensors."""
    own = own_items(items, times, offsets, query_times)
    arrays = (own.user_X, own.item_X, own.features_XC)
    return Pairs(*(torch.from_numpy(array) for array in arrays))


def _recommend_batch(
    scoring: _Scoring,
    items: Items,
    times: Times,
    gaps: npt.NDArray[np.int64],
    offsets: Offsets,
) -> Lists:
    model, decoding = scoring.model, scoring.decoding
    device, max_len = model.item_weight.device, model.config.max_seq_len
    items_BL, lengths_B = (x.to(device) for x in newest(items, offsets, max_len=max_len))
    gaps_BL = newest(gaps, offsets, max_len=max_len)[0].to(device)
    num_users = len(lengths_B)
    query_times = np.full(num_users, scoring.query_time)
    ages_B = torch.from_numpy(end_ages(times, offsets, query_times)).to(device)
    owner_X = np.repeat(np.arange(num_users), np.diff(offsets))
    seen = (owner_X, items) if decoding.filter_seen else (owner_X[:0], items[:0])
    own_scores = None
    if model.copy_score is not None and not decoding.filter_seen:
        pairs = own_pairs(items, times, offsets, query_times).to(device)

        def own_scores(queries_RW: Tensor, users_R: Tensor) -> Extras:
            return model.copy_scores(queries_RW, users_R, pairs, scoring.trends_VF)

    blocked_users_X, blocked_items_X = (torch.from_numpy(x.astype(np.int64)) for x in seen)
    candidates = Candidates(
        scoring.vectors_VW,
        scoring.allowed_V,
        blocked_users_X.to(device),
        blocked_items_X.to(device),
        own_scores,
        scoring.log_popularity_V,
    )
    history = model.encode(items_BL, lengths_B, gaps_BL)
    has_slots = model.config.kind == "diffusion"
    width = scoring.vectors_VW.shape[1]

    def denoise(slots_BS: Tensor) -> Tensor:
        return model.queries(model.denoise(history, slots_BS, ages_B=ages_B)[1])[..., :width]

    def next_states(chosen_BJ: Tensor) -> Tensor:
        if has_slots:
            mask_B1 = torch.full((num_users, 1), MASK, device=device)
            return denoise(torch.cat([chosen_BJ, mask_B1], dim=1))[:, -1]
        states_BD = _extended_states(model, items_BL, gaps_BL, lengths_B, chosen_BJ)
        return model.queries(states_BD, ages_B)[:, :width]

    if decoding.decode == "autoregressive":
        return decode_autoregressive(
            next_states,
            candidates,
            num_users=num_users,
            k=decoding.k,
            rank=decoding.rank,
        )
    next_BW = next_states(torch.zeros((num_users, 0), dtype=torch.int64, device=device))
    if decoding.decode == "single":
        return decode_single(next_BW, candidates, k=decoding.k)
    keys_B = history_keys(items, times, offsets, query_time=scoring.query_time)
    return decode_multi(
        next_BW,
        denoise,
        candidates,
        k=decoding.k,
        steps=decoding.steps,
        rule=decoding.rule,
        lookahead=decoding.lookahead,
        exploration=decoding.exploration,
        keys_B=keys_B.to(device),
        rank=decoding.rank,
        discount=decoding.discount,
    )


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
