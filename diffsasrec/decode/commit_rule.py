"""Which slots a denoising step commits."""

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig


@dataclass(frozen=True)
class CommitRule:
    """Which slots a step commits, besides those that it must commit to finish in time.

    threshold: slots whose item has at least this probability. While no slot of a user has it, the
        user's threshold falls by `threshold_decay`, in this step only.
    schedule: none.

    Probabilities need a sum over the whole catalogue in every step; a schedule does not.
    """

    commit: Literal["threshold", "schedule"]
    threshold: float
    threshold_decay: float

    @classmethod
    def of(cls, decoding: DecodingConfig) -> Self:
        return cls(decoding.commit, decoding.threshold, decoding.threshold_decay)

    @property
    def needs_probabilities(self) -> bool:
        return self.commit == "threshold"

    def passing(self, confidence_BKM: Tensor) -> Tensor:
        """The confidence from which slots are committed, per user, [B].

        `confidence_BKM`: log-probabilities if the rule needs them, else logits.
        """
        best_B = confidence_BKM.flatten(1).amax(1)
        if not self.needs_probabilities:
            return torch.full_like(best_B, torch.inf)
        log_threshold, log_decay = math.log(self.threshold), math.log(self.threshold_decay)
        falls_B = ((best_B - log_threshold) / log_decay).clamp(min=0).ceil()
        # min: the fall ends at the best slot, even if rounding would stop just above it
        return torch.minimum(log_threshold + falls_B * log_decay, best_B)
