"""What the lists of a night show: how long they are, from where, how sure, and which items.

Legend: V items of the vocabulary, K list length.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.schema import list_offsets, list_values
from diffsasrec.sequences.vocab import index_items

Counts = npt.NDArray[np.int64]
# of the log-probabilities at a rank: wide enough for all lists, narrow enough for a small table
BINS = np.linspace(-20.0, 0.0, 401)


@dataclass(frozen=True)
class Exposure:
    """All that the report says of some lists; those of several buckets are added."""

    lengths: Counter[int]
    sources: Counter[str]
    shown: Counts  # how often each item stands in a list, [V]
    scores: dict[int, Counts] = field(default_factory=dict)  # of the model, per rank: by BINS

    def __add__(self, other: "Exposure") -> "Exposure":
        ranks = sorted(self.scores.keys() | other.scores.keys())
        nothing = np.zeros(len(BINS) - 1, np.int64)
        scores = {r: self.scores.get(r, nothing) + other.scores.get(r, nothing) for r in ranks}
        return Exposure(
            self.lengths + other.lengths,
            self.sources + other.sources,
            self.shown + other.shown,
            scores,
        )


def exposure_of(lists: pa.Table, vocab: pa.Table) -> Exposure:
    """Of one bucket's recommendations."""
    lengths = np.diff(list_offsets(lists["items"]))
    structs = list_values(lists["items"])
    indices = index_items(structs.field("item_id"), vocab)
    by_model = np.repeat(np.asarray(lists["source"].to_numpy() == "model"), lengths)
    rank, score = structs.field("rank").to_numpy(), structs.field("score").to_numpy()
    scores = {}
    for place in np.unique(rank).tolist():
        at_rank = score[by_model & (rank == place)]
        inside = np.clip(at_rank[np.isfinite(at_rank)], BINS[0], BINS[-1])
        scores[place] = np.histogram(inside, BINS)[0]
    return Exposure(
        Counter(lengths.tolist()),
        Counter(lists["source"].to_pylist()),
        np.bincount(indices[indices >= 0], minlength=vocab.num_rows),
        scores,
    )


def binned_quantile(counts: Counts, quantile: float) -> float:
    """The middle of the bin of BINS that holds this quantile."""
    position = round((counts.sum() - 1) * quantile)
    row = int(np.searchsorted(np.cumsum(counts), position, side="right"))
    return float((BINS[row] + BINS[row + 1]) / 2)


def cumulative_shares(
    counts: Counts, by: Counts, *, num: int = 60
) -> list[tuple[int, float, float]]:
    """How much of `by` and of `counts` falls on the items that are most frequent in `by`.

    Returns:
        (number of items, share of `by`, share of `counts`) at up to `num` numbers from 1 to V,
        evenly spaced by their logarithm.
    """
    order = np.argsort(-by, kind="stable")
    first, second = np.cumsum(by[order]), np.cumsum(counts[order])
    if not len(by) or not first[-1] or not second[-1]:
        return []
    places = np.unique(np.round(np.geomspace(1, len(by), num)).astype(int)).tolist()
    return [(n, float(first[n - 1] / first[-1]), float(second[n - 1] / second[-1])) for n in places]
