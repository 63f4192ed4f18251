"""How much the state counts beside the counters.

The counters know what can be known without the sequences, and what a state adds to that differs
between logs: where many items are new every week, next to nothing. So a weight is chosen by NDCG@10
on the time cut that training may see.
"""

from collections.abc import Mapping

from diffsasrec.config.training import FinetuneConfig, ModelConfig, TrainStageConfig

STATE_WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)  # where two are as good, the first


def weights_to_try(settings: TrainStageConfig, model: ModelConfig) -> tuple[float, ...]:
    """The weights of the state that a phase measures after each epoch."""
    if isinstance(settings, FinetuneConfig) and model.trends and settings.state_weight is None:
        return STATE_WEIGHTS
    return (given_weight(settings, model, start=1.0),)


def given_weight(settings: TrainStageConfig, model: ModelConfig, *, start: float) -> float:
    """The weight of the state after a phase that measures none; `start`: that of its start."""
    if not isinstance(settings, FinetuneConfig) or settings.state_weight is None:
        return start
    return settings.state_weight if model.trends else 1.0


def best_of(ndcg_by_weight: Mapping[float, float]) -> tuple[float, float]:
    """The best weight and its NDCG@10."""
    return max(ndcg_by_weight.items(), key=lambda item: item[1])
