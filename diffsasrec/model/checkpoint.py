"""A checkpoint directory: model.safetensors, config.json, vocab.parquet. Nothing is ever unpickled.

config.json is written last and carries the sha256 of the other two: a directory with a valid
config.json is complete.
"""

import errno
import io
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.event_types import EventTypes
from diffsasrec.files.storage import Storage, parquet_bytes, sha256, to_json
from diffsasrec.model.mix import Mix
from diffsasrec.model.transformer import SequenceModel

log = logging.getLogger(__name__)

PLAIN = Mix()
WEIGHTS, VOCAB, CONFIG = "model.safetensors", "vocab.parquet", "config.json"
# earlier versions have another shape here; their weights can be the start of a training
RESHAPED = ("copy_score.", "trends.", "ranker.")
TYPES = "event_types"  # in config.json, of weights that were trained on a log with types
KEYS = ("model", "num_items", "trained_before", "model_version", "sha256")  # of config.json


@dataclass(frozen=True)
class Checkpoint:
    model: SequenceModel  # in eval mode
    vocab: pa.Table  # item_id, index, count: in the events that the weights were trained on
    trained_before: int  # microseconds: no event at or after it was trained on
    model_version: str  # of the weights: 12 hex digits of their sha256

    def candidates(self) -> npt.NDArray[np.bool_]:
        """The items that the weights were trained on, [V]."""
        return np.asarray(self.vocab["count"].to_numpy() > 0)


def save_checkpoint(
    directory: Storage,
    *,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    vocab: pa.Table,
    counts: npt.NDArray[np.int64],
    trained_before: int,
    mix: Mix = PLAIN,
    types: EventTypes | None = None,
) -> None:
    """Writes the checkpoint; `counts` are those of the items in the training part, [V].

    `types`: of the events, of a log with types.

    What another attempt at the same training has put there stays. Lists may have been made with
    these weights already, so they are never replaced, not even by weights that differ only in the
    last digits.
    """
    made = {
        WEIGHTS: safetensors.torch.save({**weights, **mix.tensors()}),
        VOCAB: parquet_bytes(
            vocab.select(["item_id", "index"]).append_column("count", pa.array(counts, pa.int64()))
        ),
    }
    for name in (WEIGHTS, VOCAB):
        directory.create(name, made.pop(name))
    data = {name: directory.read_bytes(name) for name in (WEIGHTS, VOCAB)}
    description = {
        "model": config.model_dump(mode="json"),
        "num_items": vocab.num_rows,
        "trained_before": trained_before,
        "model_version": sha256(data[WEIGHTS])[:12],
        "sha256": {name: sha256(content) for name, content in data.items()},
        **({} if types is None else {TYPES: types.to_json()}),
    }
    directory.create(CONFIG, to_json(description))


def read_description(directory: Storage) -> dict[str, Any]:
    """The contents of config.json.

    Raises:
        ConfigError: the directory holds no checkpoint.
        InfrastructureError: this version does not write such a config.json.
    """
    try:
        description = json.loads(directory.read_bytes(CONFIG))
    except FileNotFoundError:
        raise ConfigError(f"there is no checkpoint in {directory.root}; train one first") from None
    except ValueError as error:
        raise _damaged(directory, CONFIG, f"is not JSON ({error})") from None
    is_typed = isinstance(description, dict) and TYPES in description
    _check_keys(directory, "", description, (*KEYS, TYPES) if is_typed else KEYS)
    if is_typed:
        _check_types(directory, description[TYPES])
    if isinstance(description["model"], dict):  # before there were such items
        description["model"].setdefault("similar_items", 0)
        description["model"].setdefault("nearest_users", False)
        description["model"].setdefault("ranker", False)
    # any other default for a missing key would make another model
    _check_keys(directory, "model.", description["model"], ModelConfig.model_fields)
    _check_keys(directory, "sha256.", description["sha256"], (WEIGHTS, VOCAB))
    return dict(description)


def types_of(description: Mapping[str, Any]) -> EventTypes | None:
    """The types of the events that weights were trained on; None: of a log without types."""
    found = description.get(TYPES)
    return None if found is None else EventTypes.from_json(found)


def _check_types(directory: Storage, found: Any) -> None:
    names = EventTypes.__dataclass_fields__
    _check_keys(directory, f"{TYPES}.", found, names)
    lists = [found[name] for name in names]
    kinds = [str, float, bool, bool]
    if (
        not all(isinstance(each, list) for each in lists)
        or len({len(each) for each in lists}) != 1
        or not all(type(v) is k for each, k in zip(lists, kinds, strict=True) for v in each)
        or not any(found["targets"])
    ):
        raise _damaged(directory, CONFIG, f"has {TYPES} that are none")


def _check_keys(directory: Storage, section: str, found: Any, expected: Iterable[str]) -> None:
    names = set(found) if isinstance(found, dict) else set()
    for what, wrong in (("lacks", {*expected} - names), ("has unknown", names - {*expected})):
        if wrong:
            keys = ", ".join(section + name for name in sorted(wrong))
            raise _damaged(directory, CONFIG, f"{what} keys: {keys}")


def _damaged(directory: Storage, name: str, what: str) -> InfrastructureError:
    return InfrastructureError(f"{directory.url(name)} {what}; restore it or train again")


def load_checkpoint(directory: Storage, *, as_start: bool = False) -> Checkpoint:
    """The model on CPU, in eval mode.

    Args:
        as_start: of a training: what an earlier version has shaped differently starts afresh.

    Raises:
        ConfigError: there is none, its weights are not finite, or they are of an earlier version.
        InfrastructureError: a file is not the one that was written, or does not fit.
    """
    description = read_description(directory)
    data = {name: directory.read_bytes(name) for name in (WEIGHTS, VOCAB)}
    for name, content in data.items():
        if sha256(content) != description["sha256"][name]:
            raise _damaged(
                directory, name, f"is not the file that was saved: its sha256 is not in {CONFIG}"
            )
    if description["model_version"] != sha256(data[WEIGHTS])[:12]:
        raise _damaged(directory, CONFIG, "has a model_version of other weights")
    try:
        vocab = pq.read_table(io.BytesIO(data[VOCAB]), columns=["item_id", "index", "count"])
        indices = vocab["index"].to_numpy()
    except (pa.ArrowException, KeyError) as error:
        raise _damaged(directory, VOCAB, f"is no vocabulary ({error})") from None
    if not np.array_equal(indices, np.arange(description["num_items"])):
        raise _damaged(
            directory, VOCAB, f"does not number {description['num_items']} items as {CONFIG} says"
        )
    return Checkpoint(
        model=_load_model(directory, description, data[WEIGHTS], as_start=as_start).eval(),
        vocab=vocab,
        trained_before=description["trained_before"],
        model_version=description["model_version"],
    )


def _load_model(
    directory: Storage, description: dict[str, Any], data: bytes, *, as_start: bool
) -> SequenceModel:
    try:
        model = SequenceModel(
            ModelConfig(**description["model"]),
            description["num_items"],
            types=types_of(description),
        )
        tensors = safetensors.torch.load(data)
        Mix.taken_from(tensors).put_in(model)
        if afresh := _reshaped(model, tensors):
            if not as_start:
                raise ConfigError(
                    f"{directory.root} has weights of an earlier version, whose counters have "
                    "another shape: they can be the start of a training, but this version makes "
                    "no lists with them; make them with that version, or train again"
                )
            log.warning(
                "%s is of an earlier version: %s start afresh", directory.root, ", ".join(afresh)
            )
            tensors = {n: t for n, t in tensors.items() if not n.startswith(RESHAPED)} | afresh
        model.load_state_dict(tensors)
    except ValidationError as error:
        raise _damaged(directory, CONFIG, f"describes no model ({error})") from None
    except SafetensorError as error:
        raise _damaged(directory, WEIGHTS, f"is no safetensors file ({error})") from None
    except RuntimeError as error:  # names the tensors whose names or shapes differ
        text = " ".join(str(error).split())
        raise _damaged(directory, WEIGHTS, f"does not fit {CONFIG} ({text})") from None
    for name, tensor in {**model.state_dict(), **Mix.of(model).tensors()}.items():
        if not is_finite(tensor):  # it was saved like this, with a matching digest: no retry helps
            raise ConfigError(
                f"{directory.url(WEIGHTS)} has values in {name} that are no finite numbers: its "
                "training diverged; train again with a lower learning_rate, as another run"
            )
    return model


def _reshaped(model: SequenceModel, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fresh weights of `RESHAPED`, by name, if `found` has other ones there."""
    mine, theirs = (
        {name: t for name, t in tensors.items() if name.startswith(RESHAPED)}
        for tensors in (model.state_dict(), found)
    )
    same = {name: t.shape for name, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
    return {} if same else mine


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; makes no copy, which may not fit in memory."""
    if not tensor.numel():
        return True
    least, largest = tensor.detach().aminmax()  # nan if any value is
    return bool(least.isfinite() & largest.isfinite())


def check_not_trained_past(description: Mapping[str, Any], *, split_time: int, path: str) -> None:
    """Refuses to measure weights that saw an event at or after the split.

    Raises:
        ConfigError: names the checkpoint and both times.
    """
    if description["trained_before"] > split_time:
        raise ConfigError(
            f"{path} was trained on events before {description['trained_before']} us, the split is "
            f"at {split_time} us: weights that saw the holdout can't be measured; train from "
            "scratch or from weights of an earlier date"
        )


def save_tensors(
    storage: Storage, path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """One safetensors file: the state of a training at one step."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def fill(file: str) -> None:
        try:
            safetensors.torch.save_file(plain, file, dict(metadata))
        except SafetensorError as error:  # only its text has the error of the system
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error

    storage.write_file(path, fill)  # `safetensors.torch.save` would hold it in memory twice


def parse_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file of `save_tensors`."""
    # a safetensors file opens with the length of its JSON header
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.torch.load(data), header.get("__metadata__", {})
