"""The whole configuration, and what its sections ask of each other.

Only `jobs/` sees the whole `Config`; the library takes the values or the section that it uses.
"""

import hashlib
import json
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from diffsasrec.config.data import EventsConfig, ItemsConfig, SplitConfig, VocabConfig
from diffsasrec.config.fields import NonNegativeInt, PositiveFloat, Section, check_gpus
from diffsasrec.config.lake_url import located, normalised
from diffsasrec.config.serving import (
    CostConfig,
    EvaluateConfig,
    GateConfig,
    IcebergConfig,
    PublishConfig,
    ScoreConfig,
    SimilarItemsConfig,
    TrendingConfig,
)
from diffsasrec.config.training import (
    SIMILAR_ITEMS,
    FinetuneConfig,
    ModelConfig,
    TrainConfig,
    TrainStageConfig,
)
from diffsasrec.errors import ConfigError


class Config(Section):
    lake: str = Field(description="local directory or s3://bucket/prefix; all output goes there")
    seed: NonNegativeInt = Field(0, description="of every random choice in training")
    log_interval: PositiveFloat = Field(10.0, description="seconds between progress lines")
    stall_timeout: PositiveFloat = Field(
        3600.0, description="seconds without any progress after which the run ends"
    )
    events: EventsConfig
    split: SplitConfig = SplitConfig()
    vocab: VocabConfig = VocabConfig()
    items: ItemsConfig = ItemsConfig()
    model: ModelConfig = ModelConfig()
    pretrain: TrainStageConfig = TrainStageConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    score: ScoreConfig = ScoreConfig()
    similar_items: SimilarItemsConfig = SimilarItemsConfig()
    trending: TrendingConfig = TrendingConfig()
    publish: PublishConfig = PublishConfig()
    iceberg: IcebergConfig = IcebergConfig()
    cost: CostConfig = CostConfig()

    @field_validator("lake")
    @classmethod
    def _one_spelling(cls, lake: str) -> str:
        return normalised(lake)

    @model_validator(mode="after")
    def _follow(self) -> Self:
        """Fills in keys whose default is another key. (A frozen field needs this detour.)"""
        if not self.evaluate.ks:
            followed = self.evaluate.model_copy(update={"ks": (self.score.k,)})
            object.__setattr__(self, "evaluate", followed)
        if not self.gate.metric:
            watched = self.gate.model_copy(update={"metric": f"NDCG@{self.evaluate.ks[0]}"})
            object.__setattr__(self, "gate", watched)
        if self.model.similar_items is None:
            wanted = self.score.filter_seen and self.model.copy_score
            paired = self.model.model_copy(update={"similar_items": SIMILAR_ITEMS * wanted})
            object.__setattr__(self, "model", paired)
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.score.check_slots(self.model)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        self._check_kernels()
        self._check_categories()
        self._check_patience()
        self._check_metrics()
        return self

    def _check_kernels(self) -> None:
        check_gpus("score.gpus_per_actor", self.score.gpus_per_actor)
        if self.score.fused and not self.score.gpus_per_actor:
            raise ValueError(
                "score.fused=true needs a GPU, but score.gpus_per_actor is 0; "
                "set it to 1, or leave score.fused out"
            )

    def _check_categories(self) -> None:
        categories = self.items.path is not None and self.items.category_column is not None
        if self.score.max_per_category is not None and not categories:
            raise ValueError(
                f"score.max_per_category={self.score.max_per_category} needs items.path and "
                "items.category_column, which give the category of each item"
            )

    def _check_patience(self) -> None:
        if self.train.warm_start:
            for name, stage in (("pretrain", self.pretrain), ("finetune", self.finetune)):
                if stage.patience is not None:
                    raise ValueError(
                        f"{name}.patience={stage.patience} searches for the number of epochs from "
                        "scratch; with train.warm_start, set it to null, and set train.warm_epochs "
                        "instead"
                    )

    def _check_metrics(self) -> None:
        if max(self.evaluate.ks) > self.score.k:
            raise ValueError(
                f"evaluate.ks={list(self.evaluate.ks)} goes beyond score.k={self.score.k}; "
                "raise score.k or drop the larger cut-offs"
            )
        known = [f"{name}@{k}" for k in self.evaluate.ks for name in ("HR", "NDCG", "MRR")]
        known += [f"Coverage@{k}" for k in self.evaluate.ks]
        watched = [*self.gate.floors]
        if self.gate.max_relative_drop is not None:
            watched.append(self.gate.metric)
        for name in watched:
            if name not in known:
                raise ValueError(f"gate: {name} is not measured; known: {', '.join(known)}")

    @property
    def makes_item_tables(self) -> bool:
        """Whether a night publishes a table of items beside the lists."""
        return bool(self.similar_items.k or self.trending.k)

    def located(self) -> Self:
        """The same configuration with an absolute lake, as seen from this machine."""
        return self.model_copy(update={"lake": located(self.lake)})

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as plain JSON types."""
        return self.model_dump(mode="json")

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()
