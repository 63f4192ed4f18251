"""What a batch's histories say about the next item and about the slots."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.errors import ConfigError
from diffsasrec.model.blocks import History
from diffsasrec.model.diffusion import MASK
from diffsasrec.model.features import end_ages, event_gaps, user_features
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Histories, Offsets
from diffsasrec.typed_events import Codes


def newest(items: npt.NDArray[Any], offsets: Offsets, *, max_len: int) -> tuple[Tensor, Tensor]:
    """The last `max_len` items of each history, padded on the right with 0: [B, L], lengths [B]."""
    lengths_B = np.minimum(np.diff(offsets), max_len)
    place_L = np.arange(max(int(lengths_B.max(initial=1)), 1))
    source_BL = (offsets[1:] - lengths_B)[:, None] + place_L
    valid_BL = place_L < lengths_B[:, None]
    padded_BL = np.where(valid_BL, items[np.where(valid_BL, source_BL, 0)], 0) if len(items) else 0
    padded_BL = np.broadcast_to(padded_BL, valid_BL.shape).astype(np.int64)
    return torch.from_numpy(padded_BL), torch.from_numpy(lengths_B.astype(np.int64))


@dataclass(frozen=True)
class EncodedHistories:
    """What a batch's histories say about the next item and about the slots."""

    model: SequenceModel
    items_BL: Tensor
    gaps_BL: Tensor
    types_BL: Tensor | None  # None: the model has no types
    lengths_B: Tensor
    ages_B: Tensor
    users_BC: Tensor
    num_slots: int
    width: int  # of the item vectors, without a boost
    is_boosted: bool = False  # the vectors end with a boost, which counts once for every state

    @staticmethod
    def of(
        model: SequenceModel,
        histories: Histories,
        *,
        query_time: int,
        num_slots: int,
        width: int,
        is_boosted: bool = False,
    ) -> "EncodedHistories":
        device, max_len = model.item_weight.device, model.config.max_seq_len
        times, offsets = histories.times, histories.offsets
        newest_items = newest(histories.items, offsets, max_len=max_len)
        items_BL, lengths_B = (x.to(device) for x in newest_items)
        gaps = event_gaps(times, offsets)
        gaps_BL = newest(gaps, offsets, max_len=max_len)[0].to(device)
        types_BL = None
        if (codes := _known_codes(model, histories)) is not None:
            types_BL = newest(codes, offsets, max_len=max_len)[0].to(device)
        query_times = np.full(len(lengths_B), query_time)
        ages_B = torch.from_numpy(end_ages(times, offsets, query_times)).to(device)
        users = user_features(histories.items, times, offsets, query_times)
        users_BC = torch.from_numpy(users).to(device)
        events = items_BL, gaps_BL, types_BL, lengths_B, ages_B, users_BC
        return EncodedHistories(model, *events, num_slots, width, is_boosted)

    @cached_property
    def history(self) -> History:
        return self.model.encode_for_slots(
            self.items_BL, self.lengths_B, self.gaps_BL, self.types_BL, num_slots=self.num_slots
        )

    def slots(self, slots_BS: Tensor) -> Tensor:
        """The states of the masked slots, [R, W], by user and slot."""
        return self._wanted(slots_BS, slots_BS == MASK)

    def next(self, chosen_BJ: Tensor) -> Tensor:
        """The state of the item after the history and the items chosen so far, [B, W]."""
        if self.model.config.kind == "diffusion":
            slots_BS = torch.nn.functional.pad(chosen_BJ, (0, 1), value=MASK)
            is_last_S = torch.arange(slots_BS.shape[1], device=slots_BS.device)
            is_last_S = is_last_S == chosen_BJ.shape[1]
            return self._wanted(slots_BS, is_last_S.expand_as(slots_BS))
        states_BD = _extended_states(
            self.model, self.items_BL, self.gaps_BL, self.types_BL, self.lengths_B, chosen_BJ
        )
        return self._queries(states_BD, self.users_BC, self.ages_B)

    def _wanted(self, slots_BS: Tensor, wanted_BS: Tensor) -> Tensor:
        states_RD = self.model.denoise_wanted(self.history, slots_BS, wanted_BS, ages_B=self.ages_B)
        users_R, _ = wanted_BS.nonzero(as_tuple=True)
        return self._queries(states_RD, self.users_BC[users_R])

    def _queries(self, states_RD: Tensor, users_RC: Tensor, ages_R: Tensor | None = None) -> Tensor:
        """As wide as the item vectors: without trends that these lack, with 1 for a boost.

        Where the ranker has a share of the score, the rest of it is scaled to what is left.
        """
        queries_RW = self.model.queries(states_RD, ages_R, users_RC=users_RC)[:, : self.width]
        queries_RW = queries_RW * (1.0 - self.model.ranker_weight)
        if self.is_boosted:
            queries_RW = torch.nn.functional.pad(queries_RW, (0, 1), value=1.0)
        return queries_RW


def _known_codes(model: SequenceModel, histories: Histories) -> Codes | None:
    """The types of the events as the model knows them; None: it knows none.

    Raises:
        ConfigError: the events are of other types.
    """
    known, typed = model.event_types, histories.types
    if known is None:
        return None
    if typed is None or typed.types.names != known.names:
        found = "no types" if typed is None else ", ".join(typed.types.names)
        raise ConfigError(
            f"the weights were trained on events of the types {', '.join(known.names)}, and the "
            f"histories have {found}; give the same ones in events.types, or train again"
        )
    return typed.codes


def _extended_states(
    model: SequenceModel,
    items_BL: Tensor,
    gaps_BL: Tensor,
    types_BL: Tensor | None,
    lengths_B: Tensor,
    chosen_BJ: Tensor,
) -> Tensor:
    """The newest state of each history with `chosen_BJ` appended; a causal model has no slots.

    Positions are counted from the end: every appended item moves the others, so the history is
    encoded again. A user whose candidates ran out has -1 there; its state is not used.
    """
    num_chosen = chosen_BJ.shape[1]
    place_J = lengths_B[:, None] + torch.arange(num_chosen, device=items_BL.device)
    longer_BL = torch.nn.functional.pad(items_BL, (0, num_chosen))
    longer_BL = longer_BL.scatter(1, place_J, chosen_BJ.clamp(min=0))
    # the times of the chosen items are not known
    longer_gaps_BL = torch.nn.functional.pad(gaps_BL, (0, num_chosen))
    longer_gaps_BL = longer_gaps_BL.scatter(1, place_J, torch.zeros_like(chosen_BJ))
    if types_BL is not None and model.event_types is not None:
        asked_BJ = torch.full_like(chosen_BJ, model.event_types.asked)
        types_BL = torch.nn.functional.pad(types_BL, (0, num_chosen)).scatter(1, place_J, asked_BJ)
    lengths_B = lengths_B + num_chosen
    excess_B = (lengths_B - model.config.max_seq_len).clamp(min=0)
    width = min(longer_BL.shape[1], model.config.max_seq_len)
    place_BL = excess_B[:, None] + torch.arange(width, device=items_BL.device)
    place_BL = place_BL.clamp(max=longer_BL.shape[1] - 1)
    return model.encode(
        longer_BL.gather(1, place_BL),
        lengths_B - excess_B,
        longer_gaps_BL.gather(1, place_BL),
        None if types_BL is None else types_BL.gather(1, place_BL),
    ).last_states()
