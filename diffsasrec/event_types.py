"""The types of events: what an event of each type counts, and what it is for.

A log without types has none of this: wherever types are given, None means that all events are
alike.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_TYPES = 100  # a code is an int8
# weights are multiples of this: sums of so many are exact, and do not depend on their order
STEP = 2.0**-20

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class EventTypes:
    """The types of a log. The place of a type is its code: lighter ones first, then by name."""

    names: tuple[str, ...]
    weights: tuple[float, ...]  # above 0, multiples of STEP
    targets: tuple[bool, ...]  # whether lists predict events of the type
    seen: tuple[bool, ...]  # whether an item of such an event was seen by its user

    @classmethod
    def of(cls, types: Mapping[str, Any]) -> "EventTypes":
        """`types`: objects with weight, target and seen, by name."""
        weights = {name: max(round(t.weight / STEP), 1) * STEP for name, t in types.items()}
        names = sorted(types, key=lambda name: (weights[name], name))
        return cls(
            tuple(names),
            tuple(weights[name] for name in names),
            tuple(types[name].target for name in names),
            tuple(types[name].seen for name in names),
        )

    @property
    def asked(self) -> int:
        """The code of the type that lists ask for: the heaviest target."""
        return max(code for code, is_target in enumerate(self.targets) if is_target)

    def to_json(self) -> dict[str, list[Any]]:
        return {name: list(values) for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Sequence[Any]]) -> "EventTypes":
        return cls(**{name: tuple(found[name]) for name in ("names", "weights", "targets", "seen")})

    def in_metadata(self) -> dict[bytes, bytes]:
        """For the schema of a table with codes: what they mean."""
        return {_KEY: json.dumps(self.to_json()).encode()}

    @classmethod
    def in_schema(cls, metadata: Mapping[bytes, bytes] | None) -> "EventTypes | None":
        """What `in_metadata` has put into the metadata of a schema; None: nothing."""
        found = (metadata or {}).get(_KEY)
        return None if found is None else cls.from_json(json.loads(found))


_KEY = b"event_types"


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
