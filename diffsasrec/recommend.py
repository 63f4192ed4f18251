"""Histories -> lists, in this process: the whole of scoring but the files and the cluster.

Legend: B users, L history length, K list length, V items; histories are flat items with offsets.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.decode import (
    Candidates,
    Lists,
    decode_autoregressive,
    decode_multi,
    decode_single,
)
from diffsasrec.diffusion import MASK
from diffsasrec.model import SequenceModel

Items = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decoding:
    """How lists are made; the fields are the keys of the section `score` of the configuration."""

    k: int
    decode: Literal["single", "multi", "autoregressive"] = "single"
    rank: Literal["next_item", "slot"] = "next_item"
    steps: int = 10
    threshold: float = 0.9
    threshold_decay: float = 0.9
    filter_seen: bool = True
    batch_size: int = 256


def newest(items: Items, offsets: Offsets, *, max_len: int) -> tuple[Tensor, Tensor]:
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
    offsets: Offsets,
    *,
    allowed: npt.NDArray[np.bool_],
    decoding: Decoding,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lists of items [B, K] (-1 behind the end) and their scores, log-probabilities as next item.

    Args:
        items, offsets: whole histories; the model reads the newest events, the filter all of them.
        allowed: what may be recommended at all, [V].

    A list has K distinct items, or as many as are allowed and not filtered. The device is that of
    the model. Users are decoded in batches of similar length.
    """
    num_users = len(offsets) - 1
    max_len = model.config.max_seq_len
    all_items = np.full((num_users, decoding.k), -1, np.int64)
    all_scores = np.full((num_users, decoding.k), -np.inf, np.float32)
    order = np.argsort(np.minimum(np.diff(offsets), max_len), kind="stable")
    for start in range(0, num_users, decoding.batch_size):
        users = np.sort(order[start : start + decoding.batch_size])
        batch_items, batch_offsets = take_users(items, offsets, users)
        lists = _recommend_batch(model, batch_items, batch_offsets, allowed, decoding)
        all_items[users] = lists.items_BK.cpu().numpy()
        all_scores[users] = lists.scores_BK.float().cpu().numpy()
    return all_items, all_scores


def take_users(
    items: Items, offsets: Offsets, users: npt.NDArray[np.int64]
) -> tuple[Items, Offsets]:
    """The histories of some users, in the order given."""
    lengths = np.diff(offsets)[users]
    bounds = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    source = np.repeat(offsets[:-1][users] - bounds[:-1], lengths) + np.arange(bounds[-1])
    return items[source], bounds


def _recommend_batch(
    model: SequenceModel,
    items: Items,
    offsets: Offsets,
    allowed: npt.NDArray[np.bool_],
    decoding: Decoding,
) -> Lists:
    device = model.item_weight.device
    items_BL, lengths_B = (
        tensor.to(device) for tensor in newest(items, offsets, max_len=model.config.max_seq_len)
    )
    num_users = len(lengths_B)
    owner_X = np.repeat(np.arange(num_users), np.diff(offsets))
    seen = (owner_X, items) if decoding.filter_seen else (owner_X[:0], items[:0])
    candidates = Candidates(
        model.item_weight,
        torch.from_numpy(allowed).to(device),
        *(torch.from_numpy(x.astype(np.int64)).to(device) for x in seen),
    )
    history = model.encode(items_BL, lengths_B)
    has_slots = model.config.kind == "diffusion"
    by_next_item = decoding.rank == "next_item"

    def next_states(chosen_BJ: Tensor) -> Tensor:
        if has_slots:
            mask_B1 = torch.full((num_users, 1), MASK, device=device)
            return model.denoise(history, torch.cat([chosen_BJ, mask_B1], dim=1))[1][:, -1]
        return _extended_states(model, items_BL, lengths_B, chosen_BJ)

    if decoding.decode == "single":
        none_B0 = torch.zeros((num_users, 0), dtype=torch.int64, device=device)
        return decode_single(next_states(none_B0), candidates, k=decoding.k)
    if decoding.decode == "autoregressive":
        return decode_autoregressive(
            next_states,
            candidates,
            num_users=num_users,
            k=decoding.k,
            by_next_item=by_next_item,
        )
    return decode_multi(
        lambda slots_BK: model.denoise(history, slots_BK)[1],
        candidates,
        num_users=num_users,
        k=decoding.k,
        steps=decoding.steps,
        threshold=decoding.threshold,
        threshold_decay=decoding.threshold_decay,
        by_next_item=by_next_item,
    )


def _extended_states(
    model: SequenceModel, items_BL: Tensor, lengths_B: Tensor, chosen_BJ: Tensor
) -> Tensor:
    """The newest state of each history with `chosen_BJ` appended; a causal model has no slots.

    Positions are counted from the end, so that every appended item moves the others: the history
    is encoded anew. A user whose candidates ran out has -1 there; its state is not used.
    """
    num_chosen = chosen_BJ.shape[1]
    place_J = lengths_B[:, None] + torch.arange(num_chosen, device=items_BL.device)
    longer_BL = torch.nn.functional.pad(items_BL, (0, num_chosen))
    longer_BL = longer_BL.scatter(1, place_J, chosen_BJ.clamp(min=0))
    lengths_B = lengths_B + num_chosen
    excess_B = (lengths_B - model.config.max_seq_len).clamp(min=0)
    width = min(longer_BL.shape[1], model.config.max_seq_len)
    place_BL = excess_B[:, None] + torch.arange(width, device=items_BL.device)
    place_BL = place_BL.clamp(max=longer_BL.shape[1] - 1)
    return model.encode(longer_BL.gather(1, place_BL), lengths_B - excess_B).last_states()
