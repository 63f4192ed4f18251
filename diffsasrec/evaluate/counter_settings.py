"""What a counter is made of, so that it can be made again as of another time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:  # its SciPy takes a while to import, and every command reads settings
    from diffsasrec.evaluate.decayed_baselines import Decay


@dataclass(frozen=True, kw_only=True)
class CounterSettings:
    """A counter that has something to say to every user: popularity, alone or beside more.

    Popularity is that of the last `days`, or with `half_life_days`, or of all time if both are
    None. Beside it, as in `DecayedAndPopular`: own items, or those that are similar to them.
    """

    name: str  # as in metrics.json
    days: float | None = None
    half_life_days: float | None = None
    beside: Literal["own", "similar"] | None = None  # None: popularity alone
    decay_by: Literal["days", "basket", "event"] = "days"
    decay: float = 1.0
    popularity: float = 1.0  # its weight

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        """Without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def decay_of_events(self) -> "Decay":
        from diffsasrec.evaluate.decayed_baselines import Decay

        return Decay(self.decay_by, self.decay)
