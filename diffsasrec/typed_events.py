"""The types of single events; None wherever a log has no types."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffsasrec.event_types import EventTypes

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class TypedEvents:
    """The types of some events."""

    codes: Codes  # [events]
    types: EventTypes

    def take(self, chosen: npt.NDArray[Any] | slice) -> "TypedEvents":
        """Those of chosen events: a mask, or places."""
        return TypedEvents(self.codes[chosen], self.types)

    def weights(self) -> npt.NDArray[np.float64]:
        """What each event counts, [events]."""
        return np.array(self.types.weights)[self.codes]

    def are_targets(self) -> npt.NDArray[np.bool_]:
        return np.array(self.types.targets, bool)[self.codes]

    def are_seen(self) -> npt.NDArray[np.bool_]:
        return np.array(self.types.seen, bool)[self.codes]


def take(typed: TypedEvents | None, chosen: npt.NDArray[Any] | slice) -> TypedEvents | None:
    return None if typed is None else typed.take(chosen)


def concat(parts: Sequence[TypedEvents | None]) -> TypedEvents | None:
    """The types of the events of several parts of one log."""
    typed = [part for part in parts if part is not None]
    assert len(typed) in (0, len(parts)) and len({part.types for part in typed}) <= 1, typed
    if not typed:
        return None
    return TypedEvents(np.concatenate([part.codes for part in typed]), typed[0].types)


def weights_of(typed: TypedEvents | None) -> npt.NDArray[np.float64] | None:
    """What each event counts, [events]; None: all count 1."""
    return None if typed is None else typed.weights()
