"""The counters that the model is measured beside, on the same users.

What can be set about them is chosen on the second cut, as a team would have to choose it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse

from diffsasrec.config.config import Config
from diffsasrec.evaluate.baselines import (
    Popularity,
    Score,
    item_knn,
    own_most_frequent,
)
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.evaluate.decayed_baselines import (
    HALF_LIVES,
    Decay,
    DecayedAndPopular,
    popularity_share,
)
from diffsasrec.evaluate.tallies import Tally, bucket_tallies
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.model.features import WINDOWS
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.bucket_lists import Scoring
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.sequences.histories import flatten
from diffsasrec.times import DAY

from .baseline_counts import ALL_TIME, Known, known_at, similarity_at
from .item_counts import sample_buckets, write_shown, write_similar, write_trends
from .records import Prepared
from .scoring import scoring_of

OWN_DECAYS = (
    *(Decay("days", days) for days in (14.0, 30.0, 60.0, 90.0, 180.0, 365.0)),
    *(Decay("basket", factor) for factor in (0.7, 0.8, 0.9, 0.95)),
)
OWN_WEIGHTS = (0.05, 0.5, 1.0, 2.0, 4.0)  # of popularity, beside the user's own items
SIMILAR_DECAYS = tuple(Decay("event", factor) for factor in (0.6, 0.9, 1.0))
SIMILAR_WEIGHTS = (1e-4, 0.2, 1.0, 5.0)
NAMES = (  # of the counters, in the order of tables
    "popular",
    "recent popular",
    "decayed popular",
    "own most frequent",
    "item-kNN",
    "item-item + popular",
    "own + popular",
)


def holdout_scoring(config: Config, run: RunDir, prepared: Prepared, *, output: str) -> Scoring:
    """How the holdout users are scored with the measured weights; writes what this needs."""
    scoring = scoring_of(
        config,
        run,
        checkpoint="checkpoint_measured",
        output=output,
        users="holdout",
        query_time=prepared.split_time,
        state="state/evaluate",
    )
    write_trends(run, prepared, scoring)
    write_similar(run, prepared, scoring)
    num_users = prepared.counts.get("holdout_users", 0)
    write_shown(config, scoring, prepared.num_buckets, num_users, "evaluate")
    return scoring


@dataclass(frozen=True)
class Choice:
    """The settings of the counters."""

    window: int  # of recent popularity, as an index of WINDOWS
    half_life: int  # of decayed popularity, as an index of HALF_LIVES
    # None: seen items are filtered, and all are seen, so that own ones are no advice
    own: tuple[Decay, float] | None
    similar: tuple[Decay, float]
    best: str = ""  # the name of the counter with the best NDCG where these were chosen

    def settings(self) -> dict[str, CounterSettings]:
        """The counters that have something to say to every user, by name."""
        half_life_days = HALF_LIVES[self.half_life]
        found = [
            CounterSettings(name="popular"),
            CounterSettings(name="recent popular", days=WINDOWS[self.window] / DAY),
            CounterSettings(name="decayed popular", half_life_days=half_life_days),
        ]
        beside: tuple[tuple[Literal["own", "similar"], tuple[Decay, float] | None], ...] = (
            ("own", self.own),
            ("similar", self.similar),
        )
        for kind, chosen in beside:
            if chosen is not None:
                found.append(
                    CounterSettings(
                        name="own + popular" if kind == "own" else "item-item + popular",
                        half_life_days=half_life_days,
                        beside=kind,
                        decay_by=chosen[0].by,
                        decay=chosen[0].number,
                        popularity=chosen[1],
                    )
                )
        return {settings.name: settings for settings in found}

    def to_json(self) -> dict[str, Any]:
        """As in metrics.json, by the names of the counters."""
        weighed = {"item-item + popular": self.similar}
        weighed |= {} if self.own is None else {"own + popular": self.own}
        return {
            "recent popular": {"days": WINDOWS[self.window] / DAY},
            "decayed popular": {"half_life_days": HALF_LIVES[self.half_life]},
            **{
                name: {"decay_by": decay.by, "decay": decay.number, "popularity": weight}
                for name, (decay, weight) in weighed.items()
            },
        }


def baseline_scores(
    config: Config, run: RunDir, prepared: Prepared, allowed: npt.NDArray[np.bool_]
) -> tuple[dict[str, Score], Choice]:
    """The counters that the model is measured beside, and their settings."""
    choice = choose(config, run, prepared, allowed)
    known = known_at(config, run, prepared, prepared.split_time)
    similarity = similarity_at(config, run, prepared, known)
    alone = {"own most frequent": own_most_frequent, "item-kNN": item_knn(similarity)}
    found = scores_of(choice, known, similarity) | alone
    return {name: found[name] for name in NAMES if name in found}, choice


def scores_of(
    choice: Choice, known: Known, similarity: scipy.sparse.csr_matrix
) -> dict[str, Score]:
    """The counters of `Choice.settings` as of a time."""
    popular = popularity_share(known.decayed[choice.half_life])
    scores: dict[str, Score] = {
        "popular": Popularity(known.counts[ALL_TIME]),
        "recent popular": Popularity(known.counts[choice.window]),
        "decayed popular": popular,
        "item-item + popular": DecayedAndPopular(popular, known.at, *choice.similar, similarity),
    }
    if choice.own is not None:
        scores["own + popular"] = DecayedAndPopular(popular, known.at, *choice.own)
    return scores


def choose(
    config: Config, run: RunDir, prepared: Prepared, allowed: npt.NDArray[np.bool_]
) -> Choice:
    """The settings with the best NDCG on the second cut, of equal ones the last."""
    known = known_at(config, run, prepared, prepared.second_cut)
    masks = (allowed & known.items, known.items)
    cut: dict[str, Any] = {"cut": prepared.second_cut, "before": prepared.split_time}

    def best(settings: Sequence[Any], score: Callable[[Any], Score], buckets: Iterable[int]) -> Any:
        scores = {str(row): score(setting) for row, setting in enumerate(settings)}
        tallies = baseline_tallies(config, run, buckets, scores, *masks, **cut)
        values = [tallies[name].gains[ndcg_of(config)].mean() for name in scores]
        return settings[max(range(len(values)), key=lambda row: (values[row], row))]

    everyone = range(prepared.num_buckets)
    some = range(sample_buckets(prepared.num_buckets, prepared.counts.get("users", 0)))
    window = best(range(ALL_TIME), lambda row: Popularity(known.counts[row]), everyone)
    shares = [popularity_share(counts) for counts in known.decayed]
    half_life = best(range(len(shares)), lambda row: shares[row], everyone)
    popular, at = shares[half_life], known.at

    def weighed(
        decays: Sequence[Decay], weights: Sequence[float], score: Callable[..., Score]
    ) -> tuple[Decay, float]:
        # one after the other: all pairs would be most of the stage on a small log
        decay = best(decays, lambda decay: score(popular, at, decay, 1.0), some)
        return decay, best(weights, lambda weight: score(popular, at, decay, weight), some)

    own = None
    types = config.events.event_types
    if not config.score.filter_seen or (types is not None and not all(types.seen)):
        own = weighed(OWN_DECAYS, OWN_WEIGHTS, DecayedAndPopular)
    similarity = similarity_at(config, run, prepared, known)
    similar = partial(DecayedAndPopular, similarity=similarity)
    choice = Choice(window, half_life, own, weighed(SIMILAR_DECAYS, SIMILAR_WEIGHTS, similar))
    scores = scores_of(choice, known, similarity)
    return replace(choice, best=best(list(scores), lambda name: scores[name], some))


def ndcg_of(config: Config) -> str:
    """The metric by which counters are chosen and the model is compared with the best of them."""
    return f"NDCG@{max(config.evaluate.ks)}"


def baseline_tallies(
    config: Config,
    run: RunDir,
    buckets: Iterable[int],
    scores: dict[str, Score],
    allowed: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    *,
    cut: int,
    before: int | None,
) -> dict[str, Tally]:
    """The tallies of `scores` on each user's first known items in [cut, before), some buckets."""

    def measure_bucket(
        bucket: int, scores: dict[str, Score], masks: npt.NDArray[np.bool_], storage: Storage
    ) -> dict[str, Tally]:
        return bucket_tallies(
            flatten(storage.read_table(f"sequences/{bucket_name(bucket)}")),
            scores,
            cut=cut,
            before=before,
            allowed=masks[0],
            known=masks[1],
            ks=config.evaluate.ks,
            filter_seen=config.score.filter_seen,
        )

    masks = np.stack([allowed, known])
    return sum_tallies(map_tasks(measure_bucket, buckets, scores, masks, run.storage))


def sum_tallies(parts: Any) -> dict[str, Tally]:
    total: dict[str, Tally] = {}
    for part in parts:
        total = {name: total[name] + t if total else t for name, t in part.items()}
    return total
