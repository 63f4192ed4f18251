"""The sections on what is measured, recommended and published."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.fields import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section
from diffsasrec.config.secrets import plain_properties


class EvaluateConfig(Section):
    ks: tuple[PositiveInt, ...] = Field((), description="cut-offs of the metrics; none: score.k")
    bootstrap_samples: PositiveInt = Field(1000, description="for the 95 % intervals")
    item_knn_users: PositiveInt = Field(
        200_000, description="item-kNN counts over at most so many users"
    )


class GateConfig(Section):
    floors: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        {}, description="smallest allowed value per metric, as in NDCG@10: 0.02"
    )
    max_relative_drop: Fraction | None = Field(
        None,
        description="largest allowed drop of gate.metric against what was served before",
    )
    metric: str = Field(
        "",
        description="the metric that max_relative_drop watches; none: NDCG at the first of "
        "evaluate.ks",
    )
    otherwise: Literal["best_counter", "refuse", "model"] = Field(
        "best_counter",
        description="where the model is worse than the best counter, with the whole 95 % interval "
        "of the difference: the lists of that counter are published, or none, or those of the "
        "model all the same",
    )


class ScoreConfig(DecodingConfig):
    deny_path: str | None = Field(
        None, description="Parquet or CSV, or a directory of such files, with a column item_id"
    )
    allow_path: str | None = Field(
        None, description="likewise, as deny_path; nothing else is recommended"
    )
    exclude_path: str | None = Field(
        None,
        description="Parquet or CSV, or a directory of such files, with columns user_id and "
        "item_id: what a user is not shown tonight",
    )
    boost_path: str | None = Field(
        None,
        description="likewise, with columns item_id and boost, and perhaps from and until: what is "
        "added to the logit of an item for everyone while that time lasts; 0.7 doubles its odds",
    )
    users_path: str | None = Field(
        None, description="likewise, with a column user_id; only these users get a list"
    )
    rest_nights: NonNegativeInt = Field(
        0, description="what a user was shown in so many published nights before is not shown again"
    )
    max_per_category: PositiveInt | None = Field(
        None, description="items of one category in a list at most; needs items.category_column"
    )
    active_days: PositiveFloat | None = Field(
        None, description="score only users with an event in these last days"
    )
    max_quarantined_users: NonNegativeInt = Field(
        10, description="users whose scoring ends its process: they get the fallback, more stop"
    )
    num_actors: PositiveInt = Field(2, description="scoring actors at most")
    cpus_per_actor: PositiveFloat = Field(1.0, description="of the cluster")
    gpus_per_actor: Annotated[float, Field(ge=0)] = Field(0.0, description="of the cluster")


class SimilarItemsConfig(Section):
    k: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="neighbours of each item in similar_items/; 0: there is no such table"
    )
    by: Literal["users", "baskets", "next_baskets", "vectors"] = Field(
        "users",
        description="neighbours are items of the same users, of the same baskets, or of the "
        "baskets that follow, or those with the most similar vectors of the model",
    )

    @model_validator(mode="after")
    def _check_by(self) -> Self:
        if self.by != "users" and not self.k:
            raise ValueError(
                f"similar_items.by={self.by} decides nothing while similar_items.k is 0; set "
                "similar_items.k, as in 10, or leave both out"
            )
        return self


class TrendingConfig(Section):
    k: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0,
        description="items in trending/, of all and of each category (items.category_column); 0: "
        "there is no such table",
    )


class PublishConfig(Section):
    grace: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="seconds before a date's replaced parts are deleted"
    )
    single_writer: bool = Field(
        False, description="promise to be the only writer, on stores without create-only writes"
    )


class IcebergConfig(Section):
    table: Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+)+$")] | None = Field(
        None, description="namespace.name of an Iceberg table that shows what is published"
    )
    catalog: str = Field(
        "default", description="its catalog, as pyiceberg's own variables and file name it"
    )
    properties: dict[str, str] = Field(
        {}, description="of that catalog: type, uri, warehouse and the like; no secret"
    )

    @field_validator("properties", mode="before")
    @classmethod
    def _no_secrets(cls, properties: Any) -> Any:
        return plain_properties(properties, "iceberg.properties")


class CostConfig(Section):
    """What the machines cost, in any currency; for estimates and the manifest alone."""

    cpu_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="price of a CPU for an hour; null: hours are counted, no money"
    )
    gpu_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="price of a GPU for an hour; null: no money"
    )
