"""The types of events: what an event of each type counts, and what it is for.

A log without types has none of this: wherever types are given, None means that all events are
alike.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_TYPES = 100  # a code is an int8
# weights are multiples of this: sums of so many are exact, and do not depend on their order
STEP = 2.0**-20


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
