"""Lists and holdout items -> the metrics of metrics.json, and the gate that reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.metrics import Ranks, bootstrap_intervals, list_metrics, rank_metrics
from diffsasrec.schema import list_offsets, list_values
from diffsasrec.vocab import index_items

Lists = npt.NDArray[np.int64]


def list_matrix(recommendations: pa.Table, vocab: pa.Table, *, k: int) -> Lists:
    """The lists of a recommendations table as indices of `vocab`, [n, K]; -1 behind the end."""
    offsets = list_offsets(recommendations["items"])
    structs = list_values(recommendations["items"])
    indices = index_items(structs.field("item_id"), vocab)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = structs.field("rank").to_numpy() - 1
    lists = np.full((len(offsets) - 1, k), -1, np.int64)
    inside = place < k
    lists[owner[inside], place[inside]] = indices[inside]
    return lists


def measure(
    ranks: Ranks,
    lists: Lists,
    *,
    known_counts: npt.NDArray[np.int64],
    ks: Sequence[int],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """All metrics of one recommender, as they stand in metrics.json.

    Args:
        ranks: of the holdout items, [n], 0 for a miss.
        lists: all that was shown, as indices, [n, K].
        known_counts: of every item before the split, [V]; an item with 0 is not known.
    """
    result: dict[str, Any] = {"n": len(ranks)}
    for k in ks:
        intervals = bootstrap_intervals(ranks, k=k, samples=samples, seed=seed)
        for name, value in rank_metrics(ranks, k=k).items():
            result[name] = value
            result[f"{name}_ci"] = list(intervals[name])
    known = int((known_counts > 0).sum())
    result |= list_metrics(lists, num_items=known, counts=known_counts, ks=ks)
    return result


def gate_failures(
    model: Mapping[str, Any],
    *,
    floors: Mapping[str, float],
    metric: str,
    max_relative_drop: float | None,
    previous: Mapping[str, Any] | None,
) -> list[str]:
    """What forbids publishing, in words; [] when nothing does.

    `previous` are the metrics of the newest published date before this one, None without one.
    """
    failures = [
        f"{name} is {model[name]:.4f}, below its floor of {floor} (gate.floors)"
        for name, floor in floors.items()
        if model[name] < floor
    ]
    if max_relative_drop is not None and previous is not None and metric in previous:
        allowed = previous[metric] * (1 - max_relative_drop)
        if model[metric] < allowed:
            failures.append(
                f"{metric} is {model[metric]:.4f}, more than gate.max_relative_drop="
                f"{max_relative_drop} below the {previous[metric]:.4f} of the last published date"
            )
    return failures
