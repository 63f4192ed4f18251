"""A SASRec-style transformer over item indices, with mask slots behind the history.

Two streams of tokens share one set of weights. The *history* is causal: a token attends to itself
and to those before it. The *slots* stand behind the history and attend to all of it and to each
other. So nothing in the history depends on the slots: its keys and values are computed once, and
stay exact while the slots are denoised in several steps. The three attention patterns:

    causal          history only (SASRec, Kang & McAuley 2018)
    prefix          history and slots
    bidirectional   every token is in the slot stream and attends to every other

Positions are counted from the boundary between the streams: the newest history event is always at
the same place. Items come as indices 0..V-1; -1 is the mask. Histories are padded on the right,
where causal attention never looks; nothing reads the states of padding.

A logit is a state times an item vector, and there is more to both than what attention sees. The
item vector is extended by its trends as of the query time, and the state by the weights that it
gives them, so that scoring stays one matrix product. Items of the user's own history also get a
copy score, from how often, how long ago and how regularly they were touched; and so do the items
that are most similar to the newest ones of it.

Legend: B users, L history length, S slots, D hidden size, H heads, E head size, V items, F trend
features, W width of the item vectors (D and the trends), R rows (states to score), X pairs (user,
item), Y pairs (row, item).
"""

from typing import cast

import torch
from torch import Tensor, nn

from diffsasrec.config.training import ModelConfig
from diffsasrec.event_types import EventTypes
from diffsasrec.model.blocks import (
    Block,
    Cache,
    Embedder,
    History,
    existing,
    initialise,
    slot_heads,
)
from diffsasrec.model.features import NUM_GAPS, NUM_TRENDS
from diffsasrec.model.heads.copy_score import CopyScore, OwnItems
from diffsasrec.model.heads.pairs import Pairs
from diffsasrec.model.heads.ranker import Ranker, Ranking
from diffsasrec.model.heads.trends import Trends
from diffsasrec.model.mix import Mix

# tokens that are encoded at once without gradients: their inner states stay small
TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 2**20}


class SequenceModel(Embedder):
    """States of history events and of mask slots, and what turns them into logits.

    `types`: of the events of a log with types: then every history comes with the codes of these.
    """

    state_weight: Tensor
    ranker_weight: Tensor

    def __init__(
        self, config: ModelConfig, num_items: int, *, seed: int = 0, types: EventTypes | None = None
    ) -> None:
        super().__init__()
        self.config, self.event_types = config, types
        self.num_items = num_items
        has_slots = config.kind == "diffusion"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.items = nn.Embedding(num_items, config.hidden_size)
            num_positions = config.max_seq_len + (config.num_slots if has_slots else 0)
            self.positions = nn.Embedding(num_positions, config.hidden_size)
            self.mask = nn.Parameter(torch.zeros(config.hidden_size)) if has_slots else None
            self.blocks = nn.ModuleList(
                Block(config.hidden_size, config.num_heads, config.dropout)
                for _ in range(config.num_blocks)
            )
            self.norm = nn.LayerNorm(config.hidden_size)
            size = config.hidden_size
            self.gaps = nn.Embedding(NUM_GAPS, size) if config.time_inputs else None
            has_age = config.time_inputs and not has_slots  # a slot has it as its gap
            self.age = nn.Embedding(NUM_GAPS, size) if has_age else None
            self.trends = Trends(size) if config.trends else None
            for name, weight in Mix().tensors().items():  # these are not trained
                self.register_buffer(name, weight, persistent=False)
            self.copy_score = CopyScore(config) if config.copy_score else None
            self.apply(initialise)
            if self.mask is not None:
                nn.init.normal_(self.mask, std=0.05)
            if self.age is not None:  # added to a finished state: starts at 0
                nn.init.zeros_(self.age.weight)
            for part in (self.trends, self.copy_score):
                if part is not None:
                    part.start()
            self.types = None if types is None else nn.Embedding(len(types.names), size)
            if self.types is not None:  # added to the items: starts at 0, and changes nothing
                nn.init.zeros_(self.types.weight)
            self.ranker = Ranker(config) if config.ranks else None

    @property
    def item_weight(self) -> Tensor:
        """The item embedding, tied to the input, [V, D]."""
        return self.items.weight

    def counter_parameters(self) -> list[nn.Parameter]:
        """The weights that mean nothing without a query time."""
        parts = (self.age, self.trends, self.copy_score, self.ranker)
        return [p for part in parts if part is not None for p in part.parameters()]

    def item_vectors(self, trends_VF: Tensor | None, items_V: Tensor | None = None) -> Tensor:
        """The vectors that states are multiplied with, [V, W], of `items_V` or of all items.

        `trends_VF`: of the same items, as of the query time.
        """
        weight_VD = self.item_weight if items_V is None else self.items(items_V)
        if self.trends is None or trends_VF is None:
            return weight_VD
        columns = self.trends.columns(trends_VF.to(weight_VD.dtype))
        return torch.cat([weight_VD, columns], dim=1)

    def queries(
        self,
        states_RD: Tensor,
        ages_R: Tensor | None = None,
        *,
        weights_R: Tensor | None = None,
        users_RC: Tensor | None = None,
    ) -> Tensor:
        """Weighted states with the weights that they give to the trends, [R, W].

        Args:
            ages_R: how old the end of the history is at the query time, in buckets, if known. A
                diffusion model has it in its slots.
            weights_R: of the states; None: `state_weight` for all. Where it is 0, the logits are
                those of the counters alone.
            users_RC: `features.user_features` as of the query time, if there is one. By them the
                trends count more for some users than for others, whatever the state weighs.
        """
        if self.age is not None and ages_R is not None:
            states_RD = states_RD + self.age(ages_R)
        states_RD = states_RD * (self.state_weight if weights_R is None else weights_R[:, None])
        if self.trends is None:
            return states_RD
        return torch.cat([states_RD, self.trends.weights_of(states_RD, users_RC)], dim=-1)

    def own_items(self, pairs: Pairs, trends_XF: Tensor | None) -> OwnItems:
        """`trends_XF`: of the item of each pair, as of the query time of its user."""
        assert self.copy_score is not None
        if trends_XF is None or self.trends is None:
            trends_XF = pairs.features_XC.new_zeros((len(pairs.items_X), NUM_TRENDS))
        ranking = None
        if self.ranker is not None and pairs.ranks_XR is not None:
            weight = float(self.ranker_weight)
            ranking = Ranking.of(self.ranker(pairs, trends_XF), pairs, weight)
        pair_XC = torch.cat([pairs.features_XC, trends_XF], dim=1).to(self.item_weight.dtype)
        hidden_XH = self.copy_score.hidden(pair_XC, self.items(pairs.items_X), pairs.is_copied_X)
        return OwnItems(self.copy_score, pairs.users_X, pairs.items_X, hidden_XH, ranking)

    def encode(
        self,
        items_BL: Tensor,
        lengths_B: Tensor,
        gaps_BL: Tensor | None = None,
        types_BL: Tensor | None = None,
        *,
        with_states: bool = True,
    ) -> History:
        """Encodes histories of `lengths_B` events (at most max_seq_len), padded on the right.

        `gaps_BL`: the time between each event and the one before it, in buckets; None: unknown.
        `types_BL`: the codes of their types, if the model has types. Without states, only what the
        slots attend to is kept.
        """
        assert items_BL.shape[1] <= self.config.max_seq_len, items_BL.shape
        if self.config.attention == "bidirectional":
            return History(items_BL, lengths_B, gaps_BL, types_BL, None, [])
        x_BLD = self._embed_history(items_BL, lengths_B, gaps_BL, types_BL)
        cache: Cache = []
        for block in self._blocks():
            query, key, value = block.heads(x_BLD)
            cache.append((key, value))
            if with_states or len(cache) < self.config.num_blocks:
                x_BLD = block.attend(x_BLD, query, key, value, causal=True)
        states_BLD = self.norm(x_BLD) if with_states else None
        return History(items_BL, lengths_B, gaps_BL, types_BL, states_BLD, cache)

    def encode_for_slots(
        self,
        items_BL: Tensor,
        lengths_B: Tensor,
        gaps_BL: Tensor,
        types_BL: Tensor | None = None,
        *,
        num_slots: int,
    ) -> History:
        """`encode` in little memory, without gradients and states, with room for the slots.

        Under bidirectional attention nothing can be encoded before the slots are known.
        """
        if self.config.attention == "bidirectional":
            return self.encode(items_BL, lengths_B, gaps_BL, types_BL)
        num_users, width = items_BL.shape
        at_once = max(1, TOKENS_AT_ONCE[items_BL.device.type] // width)
        cache: Cache = []
        for start in range(0, num_users, at_once):
            users = slice(start, start + at_once)
            types = None if types_BL is None else types_BL[users]
            events = items_BL[users], lengths_B[users], gaps_BL[users], types
            part = self.encode(*events, with_states=False)
            for number, (key, value) in enumerate(part.cache):
                if start == 0:
                    shape = (num_users, key.shape[1], width + num_slots, key.shape[3])
                    cache.append((key.new_empty(shape), value.new_empty(shape)))
                cache[number][0][users, :, :width] = key
                cache[number][1][users, :, :width] = value
        return History(items_BL, lengths_B, gaps_BL, types_BL, None, cache, room=num_slots)

    def denoise(
        self,
        history: History,
        slots_BS: Tensor,
        num_slots_B: Tensor | None = None,
        *,
        ages_B: Tensor | None = None,
        types_BS: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """States of the history and of the slots (items or the mask, -1) behind it.

        Only the first `num_slots_B` slots exist; all of them if it is None. `ages_B`: how old the
        end of the history is at the query time, in buckets; None: unknown. `types_BS`: the codes of
        the slots' types; None: that which lists ask for.

        Returns:
            states [B, L, D] and [B, S, D].
        """
        mask = existing(history, slots_BS, num_slots_B)
        if self.config.attention == "bidirectional":
            return self._denoise_all(history, slots_BS, mask, ages_B, types_BS)
        assert history.states_BLD is not None
        x_BSD = self._embed_slots(slots_BS, ages_B, types_BS)
        for number, block in enumerate(self._blocks()):
            x_BSD = block.attend(x_BSD, *slot_heads(block, x_BSD, history, number), mask=mask)
        return history.states_BLD, self.norm(x_BSD)

    def denoise_wanted(
        self,
        history: History,
        slots_BS: Tensor,
        wanted_BS: Tensor,
        *,
        ages_B: Tensor | None = None,
    ) -> Tensor:
        """The states of the wanted slots of `denoise` alone, [R, D], by user and slot.

        After the keys and values of the last block, only these are computed.
        """
        if self.config.attention == "bidirectional":
            return self.denoise(history, slots_BS, ages_B=ages_B)[1][wanted_BS]
        mask = existing(history, slots_BS, None)
        x_BSD = self._embed_slots(slots_BS, ages_B, None)
        *blocks, last = self._blocks()
        for number, block in enumerate(blocks):
            x_BSD = block.attend(x_BSD, *slot_heads(block, x_BSD, history, number), mask=mask)
        query, keys, values = slot_heads(last, x_BSD, history, len(blocks))
        # the wanted slots of each user first; after them any slots, if other users have more
        users_R, slot_R = wanted_BS.nonzero(as_tuple=True)
        counts_B = wanted_BS.sum(1)
        nth_R = torch.arange(len(users_R), device=users_R.device)
        nth_R = nth_R - (counts_B.cumsum(0) - counts_B)[users_R]
        slot_BO = counts_B.new_zeros((len(counts_B), int(counts_B.max())))
        slot_BO[users_R, nth_R] = slot_R
        users_B1 = torch.arange(len(counts_B), device=users_R.device)[:, None]
        query_BHOE = query.transpose(1, 2)[users_B1, slot_BO].transpose(1, 2)
        x_BOD = last.attend(x_BSD[users_B1, slot_BO], query_BHOE, keys, values, mask=mask)
        return self.norm(x_BOD[users_R, nth_R])

    def _denoise_all(
        self,
        history: History,
        slots_BS: Tensor,
        mask: Tensor,
        ages_B: Tensor | None,
        types_BS: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        past_BLD = self._embed_history(
            history.items_BL, history.lengths_B, history.gaps_BL, history.types_BL
        )
        x_BTD = torch.cat([past_BLD, self._embed_slots(slots_BS, ages_B, types_BS)], dim=1)
        # a row without any key (no history, no slot) would be a softmax over nothing
        mask = mask | ~mask.any(dim=-1, keepdim=True)
        for block in self._blocks():
            x_BTD = block.attend(x_BTD, *block.heads(x_BTD), mask=mask)
        x_BTD = self.norm(x_BTD)
        return x_BTD[:, : past_BLD.shape[1]], x_BTD[:, past_BLD.shape[1] :]

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))
