"""The configuration: frozen pydantic models, YAML in, every unknown key refused.

Only `jobs/` sees the whole `Config`; the library takes the values or the section that it uses.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from diffsasrec.errors import ConfigError
from diffsasrec.lakes import located, normalised

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeInt = Annotated[int, Field(ge=0)]


# the name of a property that holds a secret, or a value with one in it
_SECRET = re.compile(
    r"secret|passw|token|credential|connection-string|authorization|cookie"
    r"|(access|account|private|api)[-_.]?key|sas[-_.]|\b(pwd|sig|signature)=",
    re.IGNORECASE,
)


FUSED_MOST = 128  # of the best items: of more the tiles know sooner


def _check_gpus(key: str, number: float) -> None:
    if number > 1 and number % 1:
        raise ValueError(f"{key}={number:g}: above 1 Ray gives whole GPUs only; set it to 1")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class EventsConfig(Section):
    path: str = Field(description="file, directory or glob; local, s3:// or pkg://package/file")
    format: Literal["parquet", "csv", "jsonl"] = Field("parquet", description="of every input file")
    user_column: str = Field("user_id", description="column with the user ids")
    item_column: str = Field("item_id", description="column with the item ids")
    time_column: str = Field("timestamp", description="column with the time of the event")
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="unit of integer times; null: the column holds timestamps or ISO strings"
    )
    id_type: Literal["as_read", "int64", "string"] = Field(
        "as_read", description="ids are kept as Parquet has them; CSV and JSON ids are strings"
    )
    partition_column: str | None = Field(
        None, description="hive key of a date (dt=YYYY-MM-DD): later partitions are not read"
    )
    max_bad_fraction: Fraction = Field(
        0.01, description="above this share of bad rows the run stops"
    )
    max_bad_fraction_of_newest: Fraction | None = Field(
        None,
        description="the same for each of the newest days and files; null: ten times as many",
    )
    min_rows_of_newest: PositiveInt = Field(
        1000, description="a day or file of fewer rows is not judged by itself"
    )


class SplitConfig(Section):
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="the split time is this quantile of all timestamps (nearest rule)"
    )
    time: datetime | None = Field(None, description="a fixed split time (UTC), in its place")
    min_item_count: PositiveInt = Field(
        1, description="rarer items are dropped; what is measured counts before the split"
    )
    min_user_events: Annotated[int, Field(ge=2)] = Field(
        2, description="shorter histories are not trained on"
    )
    max_user_events: PositiveInt = Field(100_000, description="only a user's last events are kept")
    users_per_bucket: PositiveInt = Field(
        20_000, description="a bucket file is the unit of training input, scoring and resuming"
    )


class VocabConfig(Section):
    previous_path: str | None = Field(
        None, description="directory of an earlier vocab: its items keep their indices"
    )


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
                f"model.attention={self.attention} does not go with model.kind={self.kind}; "
                f"use {' or '.join(allowed)}"
            )
        return self


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
    epochs: PositiveInt = Field(3, description="at most, when patience is set")
    patience: PositiveInt | None = Field(
        None, description="epochs without a better NDCG@10 on the second time cut; null: no search"
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
    epochs: NonNegativeInt = Field(5, description="at most, when patience is set; 0: none")
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
    objective: FinetuneObjectiveConfig = FinetuneObjectiveConfig()


class TrainConfig(Section):
    every_days: PositiveInt = Field(
        1, description="weights serve so many nights, until they are so old; 1: every night trains"
    )
    num_workers: PositiveInt = Field(2, description="DDP workers")
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
    buckets_in_memory: PositiveInt = Field(8, description="rows are shuffled inside such a group")
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
        _check_gpus("train.gpus_per_worker", self.gpus_per_worker)
        return self


class ItemsConfig(Section):
    path: str | None = Field(
        None,
        description="Parquet or CSV, or a directory of such files, with a row per item: what "
        "people see, and what rules need",
    )
    id_column: str = Field("item_id", description="column with the item ids, as in the log")
    title_column: str | None = Field(None, description="column with what an item is called")
    category_column: str | None = Field(None, description="column with the kind of an item")


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


class ScoreConfig(Section):
    k: PositiveInt = Field(10, description="items per user")
    decode: Literal["single", "multi", "autoregressive"] = Field("single", description="how")
    rank: Literal["next_item", "slot"] = Field(
        "next_item", description="order of a list: by next-item probability, or by slot"
    )
    steps: PositiveInt = Field(
        2, description="multi: at most so many denoising steps; exploring takes the last"
    )
    commit: Literal["threshold", "schedule"] = Field(
        "schedule", description="multi: which slots a step commits, where there are several"
    )
    threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="commit=threshold: confidence at which a slot is committed"
    )
    threshold_decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="commit=threshold: the user's falls by this factor while no slot passes"
    )
    lookahead: Fraction = Field(
        0.5,
        description="multi: 0 scores every slot as the next item, 1 by its own state, "
        "which learned later items; between, a mix",
    )
    explore_items: NonNegativeInt = Field(
        1, description="multi: so many places of a list are for items rarely shown; 0: none"
    )
    explore_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5,
        description="such an item is at least so many times as probable as the one whose place "
        "it takes",
    )
    shortlist: NonNegativeInt = Field(
        512,
        description="multi: items per user that the steps look at where they provably suffice; "
        "0: all; lists are the same",
    )
    fused: bool = Field(
        False,
        description="GPU: kernels that keep logits on the chip, in Triton; lists are the same",
    )
    filter_seen: bool = Field(True, description="never recommend what the user has touched")
    deny_path: str | None = Field(
        None, description="Parquet or CSV, or a directory of such files, with a column item_id"
    )
    allow_path: str | None = Field(None, description="likewise; nothing else is recommended")
    exclude_path: str | None = Field(
        None,
        description="Parquet or CSV, or a directory of such files, with columns user_id and "
        "item_id: what a user is not shown tonight",
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
    batch_size: PositiveInt = Field(256, description="users decoded at once")
    max_quarantined_users: NonNegativeInt = Field(
        10, description="users whose scoring ends its process: they get the fallback, more stop"
    )
    num_actors: PositiveInt = Field(2, description="scoring actors at most")
    cpus_per_actor: PositiveFloat = Field(1.0, description="of the cluster")
    gpus_per_actor: Annotated[float, Field(ge=0)] = Field(0.0, description="of the cluster")


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
        """Nested keys joined by dots, numbers and booleans as pyiceberg's own file has them."""
        if not isinstance(properties, dict):
            raise ValueError("iceberg.properties is no mapping of names to values")
        flat = dict(_flat(properties, ""))
        for key, value in flat.items():
            # the message holds no value: what is refused may be one
            if _SECRET.search(key) or _SECRET.search(value):
                raise ValueError(
                    f"iceberg.properties.{key} looks like a secret, and the manifest holds the "
                    "whole config; leave it out and let pyiceberg read it from a variable "
                    "(PYICEBERG_CATALOG__<CATALOG>__<KEY>) or from ~/.pyiceberg.yaml"
                )
        return flat


class CostConfig(Section):
    """What the machines cost, in any currency; for estimates and the manifest alone."""

    cpu_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="price of a CPU for an hour; null: hours are counted, no money"
    )
    gpu_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="price of a GPU for an hour; null: likewise"
    )


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
    publish: PublishConfig = PublishConfig()
    iceberg: IcebergConfig = IcebergConfig()
    cost: CostConfig = CostConfig()

    @field_validator("lake")
    @classmethod
    def _one_spelling(cls, lake: str) -> str:
        return normalised(lake)

    @model_validator(mode="after")
    def _follow(self) -> Self:
        """What follows another key where it is not set. (Setting a frozen field goes round it.)"""
        if not self.evaluate.ks:
            followed = self.evaluate.model_copy(update={"ks": (self.score.k,)})
            object.__setattr__(self, "evaluate", followed)
        if not self.gate.metric:
            watched = self.gate.model_copy(update={"metric": f"NDCG@{self.evaluate.ks[0]}"})
            object.__setattr__(self, "gate", watched)
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model.kind == "sasrec" and self.score.decode == "multi":
            raise ValueError(
                "score.decode=multi needs mask slots, which model.kind=sasrec has not; "
                "use single or autoregressive, or model.kind=diffusion"
            )
        slots = self.score.decode != "single" and self.model.kind == "diffusion"
        if slots and self.score.k > self.model.num_slots:
            raise ValueError(
                f"score.k={self.score.k} with score.decode={self.score.decode} needs "
                f"model.num_slots >= {self.score.k}, it is {self.model.num_slots}"
            )
        _check_gpus("score.gpus_per_actor", self.score.gpus_per_actor)
        if self.score.fused and not self.score.gpus_per_actor:
            raise ValueError(
                "score.fused=true has kernels for a GPU, and score.gpus_per_actor is 0; "
                "set that, or leave score.fused out"
            )
        if self.score.fused and self.score.k > FUSED_MOST:
            raise ValueError(
                f"score.fused=true decides nothing at score.k={self.score.k}: the kernels find at "
                f"most {FUSED_MOST} items; leave score.fused out"
            )
        if self.score.decode == "multi":
            self._check_steps()
        categories = self.items.path is not None and self.items.category_column is not None
        if self.score.max_per_category is not None and not categories:
            raise ValueError(
                f"score.max_per_category={self.score.max_per_category} needs items.path and "
                "items.category_column, which say what an item's category is"
            )
        if self.train.warm_start:
            for name, stage in (("pretrain", self.pretrain), ("finetune", self.finetune)):
                if stage.patience is not None:
                    raise ValueError(
                        f"{name}.patience={stage.patience} searches for how long to train from "
                        "scratch; with train.warm_start set it to null, and train.warm_epochs to "
                        "how long from there"
                    )
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
        return self

    def _check_steps(self) -> None:
        score = self.score
        sure_steps = score.steps - (score.explore_items > 0)
        if sure_steps < 1:
            raise ValueError(
                f"score.explore_items={score.explore_items} takes the last step, but "
                f"score.steps={score.steps}; raise score.steps or set score.explore_items=0"
            )
        if score.explore_items >= score.k:
            raise ValueError(
                f"score.explore_items={score.explore_items} leaves no place of "
                f"score.k={score.k}; lower it"
            )
        if sure_steps == 1 and score.commit != "schedule":
            raise ValueError(
                f"score.commit={score.commit} decides nothing where one step commits all; "
                f"raise score.steps, it is {score.steps} (exploring takes the last)"
            )

    def located(self) -> Self:
        """The same with an absolute lake, as it is known from here."""
        return self.model_copy(update={"lake": located(self.lake)})

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as plain JSON types."""
        return self.model_dump(mode="json")

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()


def load_config(text: str, overrides: Iterable[str] = (), *, source: str = "config") -> Config:
    """Parses YAML `text`, applies `key.path=value` overrides (values are YAML), checks everything.

    Raises:
        ConfigError: names the key, the value and the remedy.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        # not as the error shows itself, with the lines of the file: they may hold a secret
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{source}{where} is not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds {type(values).__name__}, not a mapping of sections")
    for override in overrides:
        _apply(values, override)
    _refuse_credentials(values, "")
    if unknown := list(_unknown_keys(values, Config, "")):
        raise ConfigError("; ".join(unknown))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(map(_message, error.errors()))) from None


_CREDENTIALS = re.compile(r"://[^/]*@")  # user:password@ in front of a host or bucket
# YAML 1.1 reads 1e-3 as a string; people write learning rates so
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _apply(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {override}: write it as key.path=value")
    *parents, leaf = path.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {path}=...: {parent} is a value, not a section")
        values[parent] = dict(section)  # a YAML alias may share it with another section
        values = values[parent]
    try:
        values[leaf] = float(text) if _FLOAT.fullmatch(text) else yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {path}=...: the value is not valid YAML") from None


def _refuse_credentials(values: Mapping[str, Any], path: str) -> None:
    """Raises ConfigError for a URL with a password in it: the manifest holds the whole config."""
    for key, value in values.items():
        if isinstance(value, dict):
            _refuse_credentials(value, f"{path}{key}.")
        elif isinstance(value, str) and _CREDENTIALS.search(value):
            raise ConfigError(
                f"{path}{key} has credentials in its URL; leave them out, the usual AWS variables "
                "or the instance profile bring them"
            )


def _unknown_keys(values: Mapping[str, Any], section: type[BaseModel], path: str) -> Iterable[str]:
    for key, value in values.items():
        field = section.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), list(section.model_fields), n=1, cutoff=0.5)
            hint = f"did you mean {path}{near[0]}" if near else f"known: {sorted(known(section))}"
            yield f"unknown config key {path}{key}; {hint}?"  # its value may be a secret
            continue
        inner = section_of(field.annotation)
        if inner is not None and isinstance(value, dict):
            yield from _unknown_keys(value, inner, f"{path}{key}.")


def known(section: type[BaseModel]) -> list[str]:
    return list(section.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class behind a field annotation, or None for a plain value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _flat(values: Mapping[str, Any], path: str) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        elif isinstance(value, bool):
            yield f"{path}{key}", str(value).lower()
        elif isinstance(value, (str, int, float)):
            yield f"{path}{key}", str(value)
        else:
            raise ValueError(f"iceberg.properties.{path}{key} is no text, number or boolean")


def _message(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where} is missing; set it in the file or with --set {where}=..."
    return (
        f"{where}={error['input']!r}: {text}" if where and error["type"] != "value_error" else text
    )


def leaf_keys(section: type[BaseModel] = Config, path: str = "") -> Iterable[tuple[str, Any]]:
    """Every key of the configuration with its field, depth first: ("score.k", FieldInfo)."""
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            yield f"{path}{name}", field
        else:
            yield from leaf_keys(inner, f"{path}{name}.")
