"""Weights, vocabularies and descriptions that are damaged or forged are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, parquet_bytes, sha256, to_json
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.score.online import check_description

CONFIG = ModelConfig(hidden_size=8, num_blocks=1, num_heads=2, max_seq_len=4, num_slots=2)


@pytest.fixture
def saved(tmp_path: Path) -> Storage:
    storage = Storage.of(str(tmp_path / "checkpoint"))
    save_checkpoint(
        storage,
        weights=SequenceModel(CONFIG, 3).state_dict(),
        config=CONFIG,
        vocab=vocab_of(3),
        counts=np.array([5, 0, 2]),
        trained_before=1000,
    )
    return storage


def vocab_of(num: int) -> pa.Table:
    names = [f"item-{n}" for n in range(num)]
    return pa.table({"item_id": names, "index": pa.array(range(num), pa.int32())})


def forge(storage: Storage, name: str | None = None, data: bytes = b"", **keys: Any) -> None:
    """Replaces a file and what config.json says, with digests that fit."""
    description = json.loads(storage.read_bytes("config.json"))
    if name is not None:
        storage.write_bytes(name, data)
        description["sha256"][name] = sha256(data)
        description["model_version"] = description["sha256"]["model.safetensors"][:12]
    description |= keys
    kept = {key: value for key, value in description.items() if value is not None}
    storage.write_bytes("config.json", to_json(kept))


def refusal(storage: Storage) -> str:
    with pytest.raises(InfrastructureError) as caught:
        load_checkpoint(storage)
    assert "restore it or train again" in str(caught.value)
    return str(caught.value)


def weights(storage: Storage) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(storage.read_bytes("model.safetensors"))


def test_weights_of_another_shape_are_refused(saved: Storage):
    tensors = weights(saved)
    tensors["items.weight"] = torch.zeros(4, 8)
    forge(saved, "model.safetensors", safetensors.torch.save(tensors))
    message = refusal(saved)
    assert f"{saved.root}/model.safetensors does not fit config.json" in message
    assert "items.weight" in message


def test_weights_of_another_model_are_refused(saved: Storage):
    other = SequenceModel(CONFIG.model_copy(update={"num_blocks": 2}), 3).state_dict()
    forge(saved, "model.safetensors", safetensors.torch.save(other))
    assert "model.safetensors does not fit config.json" in refusal(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused(saved: Storage, value: float):
    tensors = weights(saved)
    tensors["items.weight"][1, 2] = value
    forge(saved, "model.safetensors", safetensors.torch.save(tensors))
    # code 2: they were saved so, and a retry of the night would read them again
    with pytest.raises(ConfigError, match=r"has values in items\.weight .* learning_rate"):
        load_checkpoint(saved)


@pytest.mark.parametrize("length", [0, 4, 100, -100])
def test_cut_weights_are_refused_even_under_a_fitting_digest(saved: Storage, length: int):
    forge(saved, "model.safetensors", saved.read_bytes("model.safetensors")[:length])
    assert "model.safetensors is no safetensors file" in refusal(saved)


@pytest.mark.parametrize("num", [2, 4])
def test_a_vocabulary_of_another_size_is_refused(saved: Storage, num: int):
    vocab = vocab_of(num).append_column("count", pa.array([1] * num))
    forge(saved, "vocab.parquet", parquet_bytes(vocab))
    assert "vocab.parquet does not number 3 items" in refusal(saved)


def test_a_vocabulary_in_another_order_is_refused(saved: Storage):
    vocab = vocab_of(3).append_column("count", pa.array([1] * 3)).take([2, 0, 1])
    forge(saved, "vocab.parquet", parquet_bytes(vocab))
    assert "vocab.parquet does not number 3 items" in refusal(saved)


@pytest.mark.parametrize("data", [b"", b"PAR1", parquet_bytes(vocab_of(3))])
def test_what_is_no_vocabulary_is_refused(saved: Storage, data: bytes):
    forge(saved, "vocab.parquet", data)
    assert "vocab.parquet is no vocabulary" in refusal(saved)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_what_is_no_description_is_refused(saved: Storage, data: bytes):
    saved.write_bytes("config.json", data)
    assert f"{saved.root}/config.json " in refusal(saved)


@pytest.mark.parametrize("key", ["model", "num_items", "trained_before", "model_version", "sha256"])
def test_a_missing_key_of_the_description_is_named(saved: Storage, key: str):
    lacking: dict[str, Any] = {key: None}
    forge(saved, **lacking)
    assert f"config.json lacks keys: {key}" in refusal(saved)


def test_unknown_keys_of_the_description_are_named(saved: Storage):
    forge(saved, code="import os")
    assert "config.json has unknown keys: code" in refusal(saved)


def test_missing_and_unknown_keys_of_the_model_are_named(saved: Storage):
    model = CONFIG.model_dump(mode="json")
    forge(saved, model={**model, "depth": 3})
    assert "has unknown keys: model.depth" in refusal(saved)
    forge(saved, model={key: value for key, value in model.items() if key != "trends"})
    assert "lacks keys: model.trends" in refusal(saved)
    forge(saved, model={**model, "hidden_size": -8})
    assert "config.json describes no model" in refusal(saved)


def test_a_version_of_other_weights_is_refused(saved: Storage):
    forge(saved, model_version="0" * 12)
    assert "config.json has a model_version of other weights" in refusal(saved)


def test_a_description_changed_after_publishing_is_refused(saved: Storage, tmp_path: Path):
    run = Storage.of(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        check_description(run)
    digest = sha256(saved.read_bytes("config.json"))
    files = [{"path": "checkpoint/config.json", "sha256": digest}]
    run.write_bytes("manifest.json", to_json({"files": files}))
    check_description(run)
    forge(saved, model={**CONFIG.model_dump(mode="json"), "num_heads": 1})  # its weights still fit
    load_checkpoint(saved)
    with pytest.raises(InfrastructureError, match=r"config\.json is not the file that was pub"):
        check_description(run)
