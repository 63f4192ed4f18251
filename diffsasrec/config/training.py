"""The sections on the model and its training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffsasrec.config.fields import (
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Rate,
    Section,
    check_gpus,
)

SIMILAR_ITEMS = 100  # where similar items are the only ones with a score of their own


class ModelConfig(Section):
    kind: Literal["sasrec", "diffusion"] = Field("diffusion", description="the model")
    attention: Literal["causal", "bidirectional", "prefix"] = Field(
        "prefix", description="sasrec: causal; diffusion: prefix or bidirectional"
    )
    hidden_size: PositiveInt = Field(64, description="width")
    num_blocks: PositiveInt = Field(2, description="depth")
    num_heads: PositiveInt = Field(2, description="attention heads")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="in training")
    max_seq_len: PositiveInt = Field(100, description="history events that the model sees")
    num_slots: PositiveInt = Field(
        10, description="mask slots behind the history that a diffusion model can denoise at once"
    )
    time_inputs: bool = Field(
        True, description="the model sees the gaps between events and the age of the newest"
    )
    trends: bool = Field(
        True, description="item vectors carry how the item fares of late, as of the query time"
    )
    copy_score: bool = Field(
        True, description="a learned score for what the user had before, by count, age and place"
    )
    similar_items: NonNegativeInt | None = Field(
        None,
        description="so many items that are most like the user's newest ones, by each of two "
        f"tables, have that score too; 0: none; null: {SIMILAR_ITEMS} under score.filter_seen, "
        "which leaves no seen items with it, else 0",
    )
    nearest_users: bool = Field(
        True,
        description="where similar items have a score, as many of those that the nearest users "
        "have, among a sample of 20,000, have it too",
    )
    ranker: bool = Field(
        True,
        description="where similar items have a score, a second one for them and for popular "
        "items, learned among these candidates alone, is mixed with the score of the model",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.hidden_size={self.hidden_size} is not divisible by "
                f"model.num_heads={self.num_heads}"
            )
        allowed = ("causal",) if self.kind == "sasrec" else ("prefix", "bidirectional")
        if self.attention not in allowed:
            raise ValueError(
                f"model.attention={self.attention} does not fit model.kind={self.kind}; "
                f"use {' or '.join(allowed)}"
            )
        return self

    @property
    def scores_similar(self) -> bool:
        """Whether items that are like those of the history have a copy score."""
        return self.copy_score and bool(self.similar_items)

    @property
    def scores_nearest(self) -> bool:
        """Whether items that the nearest users have have a copy score."""
        return self.scores_similar and self.nearest_users

    @property
    def ranks(self) -> bool:
        """Whether a ranker scores the candidates too."""
        return self.scores_similar and self.ranker and self.trends


class ObjectiveConfig(Section):
    """Shares of the training loss of a diffusion model; they need not add up to 1."""

    next_item: Annotated[float, Field(ge=0)] = Field(0.8, description="share of the next-item loss")
    random_mask: Annotated[float, Field(ge=0)] = Field(
        0.1, description="share of the forward process: each token masked with probability t"
    )
    suffix_mask: Annotated[float, Field(ge=0)] = Field(
        0.2, description="share of the masked suffix: the last k tokens masked, the rest clean"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.random_mask + self.suffix_mask <= 0:
            raise ValueError(
                "random_mask=0 and suffix_mask=0 leave nothing to denoise; for a plain next-item "
                "model set model.kind=sasrec"
            )
        return self


class FinetuneObjectiveConfig(ObjectiveConfig):
    next_item: Annotated[float, Field(ge=0)] = Field(0.5, description="share of the next-item loss")
    random_mask: Annotated[float, Field(ge=0)] = Field(
        0.0, description="share of the forward process: each token masked with probability t"
    )
    suffix_mask: Annotated[float, Field(ge=0)] = Field(
        0.5, description="share of the masked suffix: the next k tokens masked"
    )


class TrainStageConfig(Section):
    epochs: PositiveInt = Field(1, description="at most, when patience is set")
    patience: PositiveInt | None = Field(
        None,
        description="the search for epochs on the second time cut ends after so many without a "
        "better NDCG@10; null: no search",
    )
    batch_size: PositiveInt | None = Field(
        None, description="global, over all workers; null: 32 to 1024, by the number of examples"
    )
    learning_rate: Rate = Field(1e-3, description="after the warm-up")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.01, description="AdamW"
    )
    warmup_share: Fraction = Field(0.1, description="linear warm-up, as a share of the steps")
    warmup_steps: NonNegativeInt = Field(100, description="at most so many of them")
    grad_clip: PositiveFloat = Field(1.0, description="largest norm of the gradient")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="moving average of the weights that is kept; 0: the last weights"
    )
    checkpoint_every_steps: PositiveInt = Field(
        500, description="steps that a death can cost at most"
    )
    objective: ObjectiveConfig = ObjectiveConfig()


class FinetuneConfig(TrainStageConfig):
    epochs: NonNegativeInt = Field(
        3, description="at most, when patience is set or state_weight is chosen; 0: none"
    )
    patience: PositiveInt | None = Field(
        None,
        description="the search for epochs on the second time cut ends after so many without a "
        "better NDCG@10; null: it tries all of them if state_weight is chosen, else no search",
    )
    learning_rate: Rate = Field(2e-4, description="of the pretrained weights")
    counter_learning_rate: Rate = Field(
        2e-3, description="of what weighs trends, own history and its age, new in this stage"
    )
    query_times: PositiveInt = Field(
        12, description="simulated batch times inside the training log"
    )
    query_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="the batch times lie in this last part of the events"
    )
    state_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="share of the examples that the counters must predict without the state"
    )
    focus_k: NonNegativeInt = Field(
        10,
        description="a target far below the item at this place of its list counts little, since "
        "no list would show it; 0: all targets count alike",
    )
    state_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="weight of the state beside the counters; null: chosen on the second time cut, "
        "or that of the weights where the training starts warm; 1 for a model without trends",
    )
    ranker_weight: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="share of the ranker in a score; null: chosen on the second time cut, or that "
        "of the weights where the training starts warm; 0 for a model without a ranker",
    )
    objective: FinetuneObjectiveConfig = FinetuneObjectiveConfig()


class TrainConfig(Section):
    every_days: PositiveInt = Field(
        1, description="weights serve so many nights, until they are so old; 1: every night trains"
    )
    num_workers: PositiveInt = Field(
        2, description="processes that train together; one alone starts sooner"
    )
    warm_start: bool = Field(
        False, description="training starts from the newest published weights that it may know"
    )
    warm_epochs: PositiveInt | None = Field(
        None, description="of each stage from there, at most; null: as many as from scratch"
    )
    cpus_per_worker: PositiveFloat = Field(1.0, description="of the cluster")
    gpus_per_worker: Annotated[float, Field(ge=0)] = Field(
        0.0, description="of the cluster; whole ones, where there are several workers"
    )
    threads_per_worker: PositiveInt = Field(1, description="fixed, since results depend on it")
    max_failures: NonNegativeInt = Field(3, description="worker deaths that a training survives")
    buckets_in_memory: PositiveInt = Field(
        8, description="the workers share such a group; rows are shuffled inside it"
    )
    num_negatives: NonNegativeInt | None = Field(
        None, description="shared by a step; 0: full softmax; null: as many as the catalogue asks"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warm_epochs is not None and not self.warm_start:
            raise ValueError(
                f"train.warm_epochs={self.warm_epochs} decides nothing from scratch; "
                "set train.warm_start=true or leave it out"
            )
        if self.gpus_per_worker % 1 and self.num_workers > 1:
            raise ValueError(
                f"train.gpus_per_worker={self.gpus_per_worker:g} puts several of "
                f"train.num_workers={self.num_workers} on one GPU, which NCCL refuses; set it to 1 "
                "and train.num_workers to the number of GPUs at most"
            )
        check_gpus("train.gpus_per_worker", self.gpus_per_worker)
        return self
