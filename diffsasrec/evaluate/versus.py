"""Whether the model is worse than the best counter: on the same users, by their paired gains.

Which counter is the best was decided on an earlier cut, so that the holdout decides one question.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diffsasrec.evaluate.metrics import Spread

LEAST_USERS = 30  # fewer, resampled, say little of others


@dataclass(frozen=True)
class Versus:
    """The model beside a counter on the holdout users."""

    counter: str  # its name in metrics.json
    metric: str
    difference: float  # of the means, above 0 where the model is better
    interval: tuple[float, float]  # 95 %, over resampled users
    num_users: int

    @classmethod
    def of(cls, spread: Spread, *, counter: str, metric: str, samples: int, seed: int) -> "Versus":
        """`spread`: of `spread_of_differences`, over all users."""
        low, high = spread.interval(samples=samples, seed=seed)
        mean = spread.mean() if spread.num_users else 0.5
        low, high = (low, high) if spread.num_users else (0.5, 0.5)
        interval = (2 * low - 1, 2 * high - 1)
        return cls(counter, metric, 2 * mean - 1, interval, spread.num_users)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        return cls(**{**found, "interval": tuple(found["interval"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval lies below 0, and not for want of users."""
        return self.interval[1] < 0 and self.num_users >= LEAST_USERS

    def in_words(self) -> str:
        low, high = self.interval
        return (
            f"the {self.metric} of the model is {-self.difference:.4f} below that of "
            f"{self.counter} on the same users (95 % interval {-high:.4f} to {-low:.4f})"
        )


def spread_of_differences(
    of_model: npt.NDArray[np.float64], of_counter: npt.NDArray[np.float64]
) -> Spread:
    """How the differences of users' gains, from -1 to 1, are spread; brought to 0 to 1."""
    assert len(of_model) == len(of_counter), (len(of_model), len(of_counter))
    return Spread.of((of_model - of_counter + 1) / 2)
