"""Types of events for tests, and histories of typed events."""

import numpy as np
from hypothesis import strategies as st

from diffsasrec.config.data import EventTypeConfig
from diffsasrec.event_types import EventTypes
from diffsasrec.sequences.histories import Histories
from diffsasrec.typed_events import TypedEvents

PURCHASE = EventTypeConfig(weight=1.0)
CART = EventTypeConfig(weight=0.5, target=False)
VIEW = EventTypeConfig(weight=0.25, target=False, seen=False)
TYPES = EventTypes.of({"purchase": PURCHASE, "cart": CART, "view": VIEW})
V, C, P = range(3)  # the codes: the lighter first
WEIGHT = {V: 0.25, C: 0.5, P: 1.0}
NUM_ITEMS = 6
Log = list[list[tuple[int, int, int]]]  # per user, in time order: (item, time, code)

# few times, so that many events share one
typed_logs = st.lists(
    st.lists(
        st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, 6), st.integers(0, 2)), max_size=9
    ).map(lambda history: sorted(set(history), key=lambda event: event[1])),
    min_size=1,
    max_size=5,
)


def typed(codes: list[int], types: EventTypes = TYPES) -> TypedEvents:
    return TypedEvents(np.array(codes, np.int8), types)


def typed_histories(log: Log, *, unit: int = 1) -> Histories:
    """`unit`: of the times, in microseconds."""
    events = [event for history in log for event in history]
    return Histories(
        np.array([item for item, _, _ in events], np.int32),
        np.array([time * unit for _, time, _ in events], np.int64),
        np.cumsum([0, *(len(history) for history in log)]),
        typed([code for _, _, code in events]),
    )
