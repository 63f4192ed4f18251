"""How lists are made: the strategy and its numbers."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from diffsasrec.config.training import ModelConfig
from diffsasrec.decode.exploration import Exploration
from diffsasrec.errors import ConfigError

HAVE_KERNELS = ("cuda",)  # devices on which `decoding.fused` means something


@dataclass(frozen=True)
class CommitRule:
    """Which slots a step commits, besides those that must be for the steps to suffice.

    threshold: those whose item has at least this probability; while no slot of a user has, the
        user's threshold falls by `threshold_decay`, in this step only.
    schedule: none.

    Probabilities take a sum over the whole catalogue in every step, a schedule does not.
    """

    commit: Literal["threshold", "schedule"] = "schedule"
    threshold: float = 0.9
    threshold_decay: float = 0.9

    @property
    def needs_probabilities(self) -> bool:
        return self.commit == "threshold"

    def passing(self, confidence_BKM: Tensor) -> Tensor:
        """The confidence from which slots are committed, per user, [B].

        `confidence_BKM`: log-probabilities where they are needed, logits elsewhere.
        """
        best_B = confidence_BKM.flatten(1).amax(1)
        if not self.needs_probabilities:
            return torch.full_like(best_B, torch.inf)
        log_threshold, log_decay = math.log(self.threshold), math.log(self.threshold_decay)
        falls_B = ((best_B - log_threshold) / log_decay).clamp(min=0).ceil()
        # min: the fall ends at the best slot also where rounding would stop just above it
        return torch.minimum(log_threshold + falls_B * log_decay, best_B)


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


def check_slots(decoding: Decoding, model: ModelConfig) -> None:
    if decoding.decode == "multi" and model.kind == "sasrec":
        raise ConfigError(
            "decode=multi needs mask slots. A model of kind sasrec has none; use single or "
            "autoregressive"
        )
    needs_slots = decoding.decode != "single" and model.kind == "diffusion"
    if needs_slots and decoding.k > model.num_slots:
        raise ConfigError(
            f"k={decoding.k} with decode={decoding.decode} needs a model with as many slots, this "
            f"one has num_slots={model.num_slots}; ask for fewer items, or use single"
        )
