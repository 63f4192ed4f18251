"""The blocks of the transformer, and what they keep of an encoded history for the slots."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@dataclass(frozen=True)
class History:
    """An encoded history: what the slots need of it."""

    items_BL: Tensor
    lengths_B: Tensor
    gaps_BL: Tensor | None
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
