"""How good a model is while it is trained, on the time cut that training may see.

That decides how much the state counts beside the counters, and how much the ranker. The counters
know what can be known without the sequences, and what a state adds to it differs between logs:
where many items are new every week, next to nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig
from diffsasrec.counters.similar import Similar
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.evaluate.metrics import user_gains
from diffsasrec.model.mix import Mix
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Flat
from diffsasrec.sequences.holdout import holdout_between
from diffsasrec.train.epochs import TrainingSet
from diffsasrec.train.phases import Job, Phase
from diffsasrec.train.ranks import Worker
from diffsasrec.train.training_state import State

ONE = 2.0**24
STATE_WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)  # where two are as good, the first
RANKER_WEIGHTS = (0.25, 0.5)  # tried beside 0, with the best weight of the state


class Judge:
    """What the epochs of a phase are worth, on events in [trained_before, validate_before).

    Attributes:
        best_weights: the averaged weights of the best epoch; {} before one, and if the phase
            measures none.
    """

    def __init__(
        self,
        job: Job,
        phase: Phase,
        data: TrainingSet,
        *,
        worker: Worker,
        similar: Callable[[int], Similar] | None,
    ) -> None:
        self._job, self._phase, self._data, self._worker = job, phase, data, worker
        self._similar = similar
        self.best_weights: dict[str, Tensor] = {}

    @property
    def is_asked(self) -> bool:
        return self._phase.validate_before is not None

    def after_epoch(
        self, model: SequenceModel, weights: dict[str, Tensor], state: State
    ) -> dict[str, float]:
        """Measures the weights and keeps the best; stops if they have been that for too long.

        Args:
            weights: settled and finite.
            state: takes a note of it.

        Returns:
            For the history: NDCG@10, and the weights of the parts that it is best with.
        """
        settings, config = self._phase.settings, self._job.model
        ndcg = self._measured(model, weights, mixes_to_try(settings, config))
        best, _ = best_of(ndcg)
        if chooses_ranker(settings, config):
            mixes = [Mix(best.state, ranker) for ranker in RANKER_WEIGHTS]
            ndcg |= self._measured(model, weights, mixes)
        best, of_best = best_of(ndcg)
        if state.note_epoch(of_best, best, patience=settings.patience):
            self.best_weights = {name: t.clone() for name, t in weights.items()}
        return {"state_weight": best.state, "ranker_weight": best.ranker, "NDCG@10": of_best}

    def _measured(
        self, model: SequenceModel, weights: dict[str, Tensor], mixes: list[Mix]
    ) -> dict[Mix, float]:
        """NDCG@10 by how much the parts of a score count."""
        before, worker = self._phase.validate_before, self._worker
        assert before is not None
        mine = worker.part_of(self._job.num_buckets)
        return validation_ndcg(
            model,
            weights,
            map(self._data.buckets.load, mine),
            mixes=mixes,
            gains_in=partial(
                validation_gains,
                model,
                cut=self._phase.trained_before,
                before=before,
                trends=self._data.trends_QVF[-1],
                known=self._data.counts_V > 0,
                filter_seen=self._job.filter_seen,
                similar=self._similar and self._similar(len(self._data.query_times)),
            ),
            worker=worker,
        )

    def mix(self, model: SequenceModel, state: State) -> Mix:
        """How much the parts count in what the phase writes."""
        if self.is_asked:
            return Mix(state.state_weight, state.ranker_weight)
        return given_mix(self._phase.settings, self._job.model, start=Mix.of(model))


def mixes_to_try(settings: TrainStageConfig, model: ModelConfig) -> list[Mix]:
    """What a phase measures after each epoch; of what is given alone, that."""
    given = given_mix(settings, model, start=Mix())
    if isinstance(settings, FinetuneConfig) and model.trends and settings.state_weight is None:
        return [replace(given, state=weight) for weight in STATE_WEIGHTS]
    return [given]


def chooses_ranker(settings: TrainStageConfig, model: ModelConfig) -> bool:
    """Whether a phase measures with how much of the ranker lists are best."""
    return isinstance(settings, FinetuneConfig) and model.ranks and settings.ranker_weight is None


def given_mix(settings: TrainStageConfig, model: ModelConfig, *, start: Mix) -> Mix:
    """How much the parts count after a phase that measures nothing; `start`: at its start."""
    mix = start
    if isinstance(settings, FinetuneConfig):
        if settings.state_weight is not None:
            mix = replace(mix, state=settings.state_weight if model.trends else 1.0)
        if settings.ranker_weight is not None:
            mix = replace(mix, ranker=settings.ranker_weight if model.ranks else 0.0)
    return mix


def best_of(ndcg_by_mix: Mapping[Mix, float]) -> tuple[Mix, float]:
    """The best of some, the first where two are as good, and its NDCG@10."""
    return max(ndcg_by_mix.items(), key=lambda item: item[1])


def validation_gains(
    model: SequenceModel,
    flat: Flat,
    *,
    cut: int,
    before: int,
    trends: npt.NDArray[np.float32] | None,
    known: npt.NDArray[np.bool_],
    filter_seen: bool,
    similar: Similar | None = None,
) -> npt.NDArray[np.float64]:
    """NDCG@10 of each user with a known item in [cut, before).

    Args:
        flat: without the items that take no part in the training.
        trends: as of `cut`, [V, F].
        similar: as of `cut`.
    """
    held = holdout_between(flat.histories, cut=cut, before=before, known=known)
    recommender = Recommender(
        model,
        moment=Moment(cut, trends, similar=similar),
        allowed=known,
        decoding=DecodingConfig(k=10, filter_seen=filter_seen),
    )
    past = held.past
    lists, _ = recommender.recommend(past.items, past.times, past.offsets, types=past.types)
    return user_gains(lists, held.targets, k=10)["NDCG@10"]


@torch.no_grad()
def validation_ndcg(
    model: SequenceModel,
    weights: dict[str, Tensor],
    mine: Iterable[Flat],
    *,
    mixes: list[Mix],
    gains_in: Callable[[Flat], npt.NDArray[np.float64]],
    worker: Worker,
) -> dict[Mix, float]:
    """NDCG@10 of a model with other weights, by how much its parts count, over all ranks' buckets.

    The model keeps its own weights, and is left as it is for measuring.

    Args:
        mine: the buckets of this rank.
        gains_in: `validation_gains` of the model in one bucket.
    """
    current = {name: p.detach().clone() for name, p in model.named_parameters()}
    before = Mix.of(model)
    model.load_state_dict(weights)
    model.eval()
    totals = np.zeros(len(mixes) + 1)  # and the number of users
    for flat in mine:
        for place, mix in enumerate(mixes):
            mix.put_in(model)
            gains_U = gains_in(flat)
            # in whole numbers the sum is the same, however many ranks the buckets are spread over
            totals[place] += np.rint(gains_U * ONE).sum()
        totals[-1] += len(gains_U)
    model.load_state_dict(current)
    before.put_in(model)
    *sums, num_users = worker.sum([float(total) for total in totals])
    by_mix = zip(mixes, sums, strict=True)
    return {mix: total / ONE / max(num_users, 1.0) for mix, total in by_mix}
