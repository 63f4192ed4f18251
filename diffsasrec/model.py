"""A SASRec-style transformer over item indices, with mask slots behind the history.

Two streams of tokens share one set of weights. The *history* is causal: a token attends to itself
and to those before it. The *slots* stand behind the history and attend to all of it and to each
other. So nothing in the history depends on the slots, and its keys and values are computed once
while the slots are denoised in several steps, exactly. The three attention patterns:

    causal          history only (SASRec, Kang & McAuley 2018)
    prefix          history and slots
    bidirectional   every token is in the slot stream and attends to every other

Positions are counted from the boundary between the streams: the newest history event is always at
the same place. Items come as indices 0..V-1; -1 is the mask. Histories are padded on the right,
where causal attention never looks; padding gives no state that anything reads.

Legend: B users, L history length, S slots, D hidden size, H heads, E head size, V items.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.config import ModelConfig

Cache = list[tuple[Tensor, Tensor]]  # keys and values [B, H, L, E] of every block


class Block(nn.Module):
    """Pre-norm attention and a SwiGLU feed-forward layer, each added to its input."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.feed_norm = nn.LayerNorm(hidden_size)
        self.feed_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.feed_out = nn.Linear(2 * hidden_size, hidden_size)

    def heads(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, T, E] of the tokens."""
        projected = self.query_key_value(self.attention_norm(x_BTD))
        shape = (*projected.shape[:2], 3, self.num_heads, -1)
        query, key, value = projected.view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def attend(
        self,
        x_BTD: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        mixed_BHTE = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
        mixed_BTD = mixed_BHTE.transpose(1, 2).flatten(2)
        x_BTD = x_BTD + F.dropout(self.attention_out(mixed_BTD), self.dropout, self.training)
        gate, value_BTF = self.feed_in(self.feed_norm(x_BTD)).chunk(2, dim=-1)
        fed_BTD = self.feed_out(F.silu(gate) * value_BTF)
        return x_BTD + F.dropout(fed_BTD, self.dropout, self.training)


@dataclass(frozen=True)
class History:
    """An encoded history: what the slots need of it."""

    items_BL: Tensor
    lengths_B: Tensor
    states_BLD: Tensor | None  # None under bidirectional attention: states depend on the slots
    cache: Cache

    def last_states(self) -> Tensor:
        """The state of each user's newest event, [B, D]; undefined for an empty history."""
        assert self.states_BLD is not None
        rows_B = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        return self.states_BLD[rows_B, (self.lengths_B - 1).clamp(min=0)]


class SequenceModel(nn.Module):
    """States of history events and of mask slots; logits are states times `item_weight`."""

    def __init__(self, config: ModelConfig, num_items: int, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
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
            self.apply(_initialise)
            if self.mask is not None:
                nn.init.normal_(self.mask, std=0.05)

    @property
    def item_weight(self) -> Tensor:
        """The item vectors, tied to the input embedding, [V, D]."""
        return self.items.weight

    def _embed(self, items_BT: Tensor, positions_BT: Tensor) -> Tensor:
        x_BTD = self.items(items_BT.clamp(min=0))
        if self.mask is not None:
            x_BTD = torch.where((items_BT < 0)[..., None], self.mask.to(x_BTD.dtype), x_BTD)
        x_BTD = x_BTD + self.positions(positions_BT)
        return F.dropout(x_BTD, self.config.dropout, self.training)

    def _embed_history(self, items_BL: Tensor, lengths_B: Tensor) -> Tensor:
        place_L = torch.arange(items_BL.shape[1], device=items_BL.device)
        positions_BL = self.config.max_seq_len - lengths_B[:, None] + place_L
        return self._embed(items_BL, positions_BL.clamp(max=self.config.max_seq_len - 1))

    def _embed_slots(self, slots_BS: Tensor) -> Tensor:
        place_S = torch.arange(slots_BS.shape[1], device=slots_BS.device)
        return self._embed(slots_BS, (self.config.max_seq_len + place_S).expand_as(slots_BS))

    def encode(self, items_BL: Tensor, lengths_B: Tensor) -> History:
        """Encodes histories of `lengths_B` events (at most max_seq_len), padded on the right."""
        assert items_BL.shape[1] <= self.config.max_seq_len, items_BL.shape
        if self.config.attention == "bidirectional":
            return History(items_BL, lengths_B, None, [])
        x_BLD = self._embed_history(items_BL, lengths_B)
        cache: Cache = []
        for block in self._blocks():
            query, key, value = block.heads(x_BLD)
            cache.append((key, value))
            x_BLD = block.attend(x_BLD, query, key, value, causal=True)
        return History(items_BL, lengths_B, self.norm(x_BLD), cache)

    def denoise(
        self, history: History, slots_BS: Tensor, num_slots_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States of the history and of the slots (items or the mask, -1) behind it.

        Of the slots only the first `num_slots_B` exist; all of them when it is None.

        Returns:
            states [B, L, D] and [B, S, D].
        """
        num_history, num_slots = history.items_BL.shape[1], slots_BS.shape[1]
        device = slots_BS.device
        history_BL = torch.arange(num_history, device=device) < history.lengths_B[:, None]
        slots_exist_BS = torch.ones_like(slots_BS, dtype=torch.bool)
        if num_slots_B is not None:
            slots_exist_BS = torch.arange(num_slots, device=device) < num_slots_B[:, None]
        mask = torch.cat([history_BL, slots_exist_BS], dim=1)[:, None, None, :]
        if self.config.attention == "bidirectional":
            return self._denoise_all(history, slots_BS, mask)
        x_BSD = self._embed_slots(slots_BS)
        for block, (key, value) in zip(self._blocks(), history.cache, strict=True):
            query, slot_key, slot_value = block.heads(x_BSD)
            keys = torch.cat([key, slot_key], dim=2)
            values = torch.cat([value, slot_value], dim=2)
            x_BSD = block.attend(x_BSD, query, keys, values, mask=mask)
        assert history.states_BLD is not None
        return history.states_BLD, self.norm(x_BSD)

    def _denoise_all(
        self, history: History, slots_BS: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        past_BLD = self._embed_history(history.items_BL, history.lengths_B)
        x_BTD = torch.cat([past_BLD, self._embed_slots(slots_BS)], dim=1)
        # a row without any key (no history, no slot) would be a softmax over nothing
        mask = mask | ~mask.any(dim=-1, keepdim=True)
        for block in self._blocks():
            x_BTD = block.attend(x_BTD, *block.heads(x_BTD), mask=mask)
        x_BTD = self.norm(x_BTD)
        return x_BTD[:, : past_BLD.shape[1]], x_BTD[:, past_BLD.shape[1] :]

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))


def _initialise(module: nn.Module) -> None:
    # at widths of 64 to 256 and a few thousand steps, the 0.02 that large language models start
    # from learns far slower
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.05)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
        nn.init.zeros_(module.bias)
