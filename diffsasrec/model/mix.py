"""How much the parts of a score count: chosen after the training, and saved beside its weights."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STATE, RANKER = "state_weight", "ranker_weight"  # buffers of a model, and tensors of a checkpoint


class Mixed(Protocol):
    """A model that has the weights of a mix."""

    state_weight: Tensor
    ranker_weight: Tensor


@dataclass(frozen=True)
class Mix:
    """The defaults are those of weights from before there was a choice."""

    state: float = 1.0  # of the sequence, beside the counters
    ranker: float = 0.0  # its share; the rest of the score has what is left

    @classmethod
    def of(cls, model: Mixed) -> "Mix":
        return cls(float(model.state_weight), float(model.ranker_weight))

    @classmethod
    def taken_from(cls, tensors: dict[str, Tensor]) -> "Mix":
        """That of a checkpoint's tensors, which are only the weights of the model then."""
        found = {**cls().tensors(), **tensors}
        for name in (STATE, RANKER):
            tensors.pop(name, None)
        return cls(float(found[STATE]), float(found[RANKER]))

    def tensors(self) -> dict[str, Tensor]:
        return {STATE: torch.tensor(self.state), RANKER: torch.tensor(self.ranker)}

    def put_in(self, model: Mixed) -> None:
        model.state_weight.fill_(self.state)
        model.ranker_weight.fill_(self.ranker)
