"""The time for which lists are made, and what is known at that time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffsasrec.counters.similar import Similar


@dataclass(frozen=True)
class Moment:
    """The time for which lists are made (the split or the run date), and what is known at it."""

    query_time: int  # microseconds
    trends: npt.NDArray[np.float32] | None  # [V, F], features.trend_features; None: not used
    # [V], how many of a thousand single-step lists show it; None: exploring finds nothing rare
    shown: npt.NDArray[np.float32] | None = None
    similar: Similar | None = None  # None: no item is similar to another
    boost: npt.NDArray[np.float32] | None = None  # [V], added to the logits; None: nothing is
