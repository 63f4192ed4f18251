"""Logs of a few users and items for tables of similar items, and slow tables of them."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from diffsasrec.counters.neighbours import Tastes
from diffsasrec.counters.similar import Similar
from diffsasrec.counters.sparse import Table
from diffsasrec.sequences.histories import Histories

NUM_ITEMS = 6
Log = list[list[tuple[int, int]]]  # per user, in time order: (item, time)

# few times, so that many events share one: they are a basket
logs = st.lists(
    st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, 4)), max_size=9).map(
        lambda history: sorted(history, key=lambda event: event[1])
    ),
    min_size=1,
    max_size=6,
)


def histories_of(log: Log) -> Histories:
    events = [event for history in log for event in history]
    return Histories(
        np.array([item for item, _ in events], np.int32),
        np.array([time for _, time in events], np.int64),
        np.cumsum([0, *(len(history) for history in log)]),
    )


def baskets_of(history: list[tuple[int, int]]) -> list[set[int]]:
    """The items of each basket of a user, in time order."""
    found: dict[int, set[int]] = defaultdict(set)
    for item, time in history:
        found[time].add(item)
    return [found[time] for time in sorted(found)]


def random_similar(
    num_items: int, seed: int = 0, share: float = 0.2, *, num_users: int = 0
) -> Similar:
    """Three tables with random entries, and the tastes of random users if there are any."""
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(3):
        dense = rng.random((num_items, num_items)) * (rng.random((num_items, num_items)) < share)
        tables.append(Table(dense.astype(np.float32)))
    similar = Similar(*tables)
    if not num_users:
        return similar
    log = [[(int(item), 1) for item in rng.integers(num_items, size=4)] for _ in range(num_users)]
    return replace(similar, tastes=Tastes.sample(histories_of(log), num_items=num_items))
