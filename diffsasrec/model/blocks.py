"""What goes into the transformer, its blocks, and what they keep of a history for the slots."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffsasrec.config.training import ModelConfig
from diffsasrec.event_types import EventTypes

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
        # dropout of attention weights would rule out the fused kernels on CPUs
        mixed_BHTE = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )
        mixed_BTD = mixed_BHTE.transpose(1, 2).flatten(2)
        x_BTD = x_BTD + F.dropout(self.attention_out(mixed_BTD), self.dropout, self.training)
        gate, value_BTF = self.feed_in(self.feed_norm(x_BTD)).chunk(2, dim=-1)
        fed_BTD = self.feed_out(F.silu(gate) * value_BTF)
        return x_BTD + F.dropout(fed_BTD, self.dropout, self.training)


class Embedder(nn.Module):
    """Vectors of events and slots: what they are of, where they stand, and when."""

    config: ModelConfig
    event_types: EventTypes | None
    items: nn.Embedding
    positions: nn.Embedding
    mask: nn.Parameter | None
    gaps: nn.Embedding | None
    types: nn.Embedding | None

    def _embed(
        self,
        items_BT: Tensor,
        positions_BT: Tensor,
        gaps_BT: Tensor | None,
        types_BT: Tensor | None,
    ) -> Tensor:
        x_BTD = self.items(items_BT.clamp(min=0))
        if self.mask is not None:
            x_BTD = torch.where((items_BT < 0)[..., None], self.mask.to(x_BTD.dtype), x_BTD)
        x_BTD = x_BTD + self.positions(positions_BT)
        if self.gaps is not None:
            gaps_BT = torch.zeros_like(items_BT) if gaps_BT is None else gaps_BT
            x_BTD = x_BTD + self.gaps(gaps_BT)
        if self.types is not None:
            assert types_BT is not None
            x_BTD = x_BTD + self.types(types_BT)
        return F.dropout(x_BTD, self.config.dropout, self.training)

    def _embed_history(
        self,
        items_BL: Tensor,
        lengths_B: Tensor,
        gaps_BL: Tensor | None,
        types_BL: Tensor | None,
    ) -> Tensor:
        place_L = torch.arange(items_BL.shape[1], device=items_BL.device)
        positions_BL = self.config.max_seq_len - lengths_B[:, None] + place_L
        positions_BL = positions_BL.clamp(max=self.config.max_seq_len - 1)
        return self._embed(items_BL, positions_BL, gaps_BL, types_BL)

    def _embed_slots(
        self, slots_BS: Tensor, ages_B: Tensor | None, types_BS: Tensor | None
    ) -> Tensor:
        if types_BS is None and self.event_types is not None:
            types_BS = torch.full_like(slots_BS, self.event_types.asked)
        place_S = torch.arange(slots_BS.shape[1], device=slots_BS.device)
        positions_BS = (self.config.max_seq_len + place_S).expand_as(slots_BS)
        gaps_BS = None if ages_B is None else ages_B[:, None].expand_as(slots_BS)
        return self._embed(slots_BS, positions_BS, gaps_BS, types_BS)


@dataclass(frozen=True)
class History:
    """An encoded history: what the slots need of it."""

    items_BL: Tensor
    lengths_B: Tensor
    gaps_BL: Tensor | None
    types_BL: Tensor | None
    states_BLD: Tensor | None  # None: not asked for, or bidirectional: they depend on the slots
    cache: Cache
    room: int = 0  # places for slots after the keys and values, which each pass overwrites

    def joined(self, block: int, slot_key: Tensor, slot_value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the history and of the slots in one block."""
        key, value = self.cache[block]
        num_slots = slot_key.shape[2]
        if num_slots > self.room:
            return torch.cat([key, slot_key], dim=2), torch.cat([value, slot_value], dim=2)
        start = key.shape[2] - self.room
        stop = start + num_slots
        key[:, :, start:stop], value[:, :, start:stop] = slot_key, slot_value
        return key[:, :, :stop], value[:, :, :stop]

    def last_states(self) -> Tensor:
        """The state of each user's newest event, [B, D]; undefined for an empty history."""
        assert self.states_BLD is not None
        rows_B = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        return self.states_BLD[rows_B, (self.lengths_B - 1).clamp(min=0)]


def slot_heads(
    block: Block, x_BSD: Tensor, history: History, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the slots, keys and values of the history and the slots, in one block."""
    query, slot_key, slot_value = block.heads(x_BSD)
    return query, *history.joined(number, slot_key, slot_value)


def existing(history: History, slots_BS: Tensor, num_slots_B: Tensor | None) -> Tensor:
    """Which events and slots exist to attend to, [B, 1, 1, L + S]."""
    place_L, place_S = (
        torch.arange(tokens_BT.shape[1], device=slots_BS.device)
        for tokens_BT in (history.items_BL, slots_BS)
    )
    history_BL = place_L < history.lengths_B[:, None]
    slots_exist_BS = torch.ones_like(slots_BS, dtype=torch.bool)
    if num_slots_B is not None:
        slots_exist_BS = place_S < num_slots_B[:, None]
    return torch.cat([history_BL, slots_exist_BS], dim=1)[:, None, None, :]


def initialise(module: nn.Module) -> None:
    # at widths of 64 to 256 and a few thousand steps, the 0.02 that large language models start
    # from learns far slower
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.05)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
        nn.init.zeros_(module.bias)
