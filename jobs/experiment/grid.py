"""The grid of an experiment: which variants, data and seeds make which cells."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError

SASREC = "causal SASRec"
SASREC_KEYS = {
    "model.kind": "sasrec",
    "model.attention": "causal",
    "model.time_inputs": False,
    "model.trends": False,
    "model.copy_score": False,
    "finetune.epochs": 0,
    "score.decode": "single",
}


class DataEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    date: date
    set: dict[str, Any] = {}


class Grid(BaseModel):
    model_config = ConfigDict(extra="forbid")
    data: dict[str, DataEntry] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    variants: dict[str, dict[str, Any]] = {"default": {}}


@dataclass(frozen=True)
class Cell:
    data: str
    variant: str
    seed: int
    config: Config
    date: date
    checkpoint_age: float | Literal["second_cut"]


def read_cells(config_path: str, grid_path: str) -> list[Cell]:
    """Every cell with its whole config, checked, so that a typo costs nothing.

    Raises:
        ConfigError: names the file, the key and the remedy.
    """
    text = _read("--config", config_path)
    try:
        grid = Grid.model_validate(yaml.safe_load(_read("--grid", grid_path)))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"--grid {grid_path}: {error}") from None
    if SASREC in grid.variants:
        raise ConfigError(
            f"--grid {grid_path}: {SASREC} is in every table; give yours another name"
        )
    for variant, keys in grid.variants.items():
        _check_age(keys.get("checkpoint_age", 0.0), f"--grid {grid_path}: {variant}")
    cells = []
    for data, entry in grid.data.items():
        plain = load_config(text, sets_of(entry.set), source=config_path)
        # what fine-tuning takes is its budget too, as epochs of pretraining
        epochs = plain.pretrain.epochs + plain.finetune.epochs
        variants = {SASREC: {**SASREC_KEYS, "pretrain.epochs": epochs}, **grid.variants}
        for variant, keys in variants.items():
            own = {key: value for key, value in keys.items() if key != "checkpoint_age"}
            age = keys.get("checkpoint_age", 0.0)
            for seed in grid.seeds[:1] if variant == SASREC else grid.seeds:
                sets = sets_of({**entry.set, **own, "seed": seed})
                config = load_config(text, sets, source=config_path)
                if config.train.warm_start:
                    raise ConfigError(f"train.warm_start: {variant} has no nights to start from")
                cells.append(Cell(data, variant, seed, config, entry.date, age))
    return cells


def _read(option: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"{option} {path} can't be read: {error.strerror}") from None


def _check_age(age: Any, where: str) -> None:
    if age != "second_cut" and not (isinstance(age, int | float) and age >= 0):
        raise ConfigError(f"{where}: checkpoint_age={age!r}; give days or second_cut")


def sets_of(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]
