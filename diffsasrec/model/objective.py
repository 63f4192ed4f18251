"""TODO doc."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffsasrec.model.heads import Pairs


@dataclass(frozen=True)
class Batch:
    """The rows of one rank, and what the losses of the whole batch are divided by."""

    history_BL: Tensor  # inputs: items, -1 where masked, 0 behind the end
    gaps_BL: Tensor  # the time since the event before, in buckets
    lengths_B: Tensor
    slots_BS: Tensor  # inputs: items or -1
    num_slots_B: Tensor
    targets_BT: Tensor  # items at all L + S places
    next_BL: Tensor  # the item behind each history event
    scored_BL: Tensor  # bool: where the next-item loss is taken
    masked_BT: Tensor  # bool: where the denoising loss is taken, over L + S places
    p_mask_BT: Tensor
    ages_B: Tensor | None  # how old the end of the history is, in buckets; None: no query time
    queries_B: Tensor  # which batch time, or DRAWN
    pairs: Pairs | None  # the items of the whole histories, where the example has a query time
    num_scored: int  # of the global batch
    num_maskable: int  # of the global batch

    def to(self, device: torch.device) -> "Batch":
        tensors: dict[str, Any] = {
            n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)
        }
        if self.pairs is not None:
            tensors["pairs"] = self.pairs.to(device)
        return replace(self, **tensors)
