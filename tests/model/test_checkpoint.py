import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import (
    check_not_trained_past,
    load_checkpoint,
    parse_tensors,
    read_description,
    save_checkpoint,
    save_tensors,
)
from diffsasrec.model.mix import Mix
from diffsasrec.model.transformer import SequenceModel

CONFIG = ModelConfig(
    hidden_size=8, num_blocks=1, num_heads=2, dropout=0.5, max_seq_len=4, num_slots=2
)
VOCAB = pa.table(
    {
        "item_id": ["apple", "bread", "cheese"],
        "index": pa.array([0, 1, 2], pa.int32()),
        "count": [9, 9, 9],  # of the whole log, and not what the weights saw
    }
)
COUNTS = np.array([5, 0, 2])


def save(directory: Path, seed: int = 0) -> tuple[Storage, SequenceModel]:
    storage, model = Storage.of(str(directory)), SequenceModel(CONFIG, 3, seed=seed)
    save_checkpoint(
        storage,
        weights=model.state_dict(),
        config=CONFIG,
        vocab=VOCAB,
        counts=COUNTS,
        trained_before=1000,
    )
    return storage, model


def resave(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Puts other weights into a checkpoint, with their digest."""
    data = safetensors.torch.save(tensors)
    (directory / "model.safetensors").write_bytes(data)
    description = json.loads((directory / "config.json").read_text())
    description["sha256"]["model.safetensors"] = hashlib.sha256(data).hexdigest()
    description["model_version"] = description["sha256"]["model.safetensors"][:12]
    (directory / "config.json").write_text(json.dumps(description))


def slot_states(model: SequenceModel) -> torch.Tensor:
    history = model.encode(torch.tensor([[0, 2, 1], [1, 0, 0]]), torch.tensor([3, 1]))
    return model.denoise(history, torch.full((2, 2), -1))[1]


def test_a_loaded_model_has_the_same_states_bit_for_bit(tmp_path):
    storage, model = save(tmp_path)
    loaded = load_checkpoint(storage).model
    assert not loaded.training and loaded.config == CONFIG
    assert torch.equal(slot_states(loaded), slot_states(model.eval()))


def test_a_checkpoint_carries_its_own_vocab_and_what_it_was_trained_on(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path)[0])
    assert checkpoint.vocab.to_pydict() == {
        "item_id": ["apple", "bread", "cheese"],
        "index": [0, 1, 2],
        "count": [5, 0, 2],
    }
    assert checkpoint.candidates().tolist() == [True, False, True]
    assert checkpoint.trained_before == 1000


def test_the_version_is_that_of_the_weights(tmp_path):
    versions = [
        load_checkpoint(save(tmp_path / str(n), seed)[0]).model_version
        for n, seed in enumerate((0, 0, 1))
    ]
    assert versions[0] == versions[1] != versions[2] and len(versions[0]) == 12


def test_equal_weights_are_equal_files(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name)
    for name in ("model.safetensors", "vocab.parquet", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("written", [["model.safetensors"], ["model.safetensors", "config.json"]])
def test_what_another_attempt_has_written_stays_and_is_described_as_it_is(tmp_path, written):
    _, first = save(tmp_path / "first", seed=1)
    (tmp_path / "shared").mkdir()
    for name in written:  # the other attempt is as far as this, or died here
        (tmp_path / "shared" / name).write_bytes((tmp_path / "first" / name).read_bytes())
    storage, second = save(tmp_path / "shared", seed=2)
    loaded = load_checkpoint(storage).model
    assert torch.equal(slot_states(loaded), slot_states(first.eval()))
    assert not torch.equal(slot_states(loaded), slot_states(second.eval()))


@pytest.mark.parametrize("place", [8, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "vocab.parquet"])
def test_one_changed_byte_is_refused(tmp_path, name, place):
    storage, _ = save(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[place] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InfrastructureError, match=name):
        load_checkpoint(storage)


def test_a_truncated_file_is_refused(tmp_path):
    storage, _ = save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InfrastructureError, match=r"model\.safetensors"):
        load_checkpoint(storage)


def test_a_directory_without_a_checkpoint_is_named_in_the_error(tmp_path):
    with pytest.raises(ConfigError, match=f"no checkpoint in {tmp_path}"):
        load_checkpoint(Storage.of(str(tmp_path)))


FLAGS = ("time_inputs", "trends", "copy_score")


@pytest.mark.parametrize("off", FLAGS)
def test_a_checkpoint_brings_the_counters_of_its_model_and_no_others(tmp_path, off):
    config = CONFIG.model_copy(update={off: False})
    storage, model = Storage.of(str(tmp_path)), SequenceModel(config, 3)
    save_checkpoint(
        storage,
        weights=model.state_dict(),
        config=config,
        vocab=VOCAB,
        counts=COUNTS,
        trained_before=1000,
    )
    loaded = load_checkpoint(storage).model
    assert [getattr(loaded.config, flag) for flag in FLAGS] == [flag != off for flag in FLAGS]
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_a_checkpoint_of_before_similar_items_scores_none_and_is_the_same(tmp_path):
    config = CONFIG.model_copy(update={"similar_items": 0})
    storage, model = Storage.of(str(tmp_path)), SequenceModel(config, 3)
    save_checkpoint(
        storage,
        weights=model.state_dict(),
        config=config,
        vocab=VOCAB,
        counts=COUNTS,
        trained_before=1000,
    )
    description = json.loads((tmp_path / "config.json").read_text())
    del description["model"]["similar_items"]
    (tmp_path / "config.json").write_text(json.dumps(description))
    loaded = load_checkpoint(storage).model
    assert loaded.config == config and not loaded.config.scores_similar
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_without_its_description_a_checkpoint_does_not_exist(tmp_path):
    storage, _ = save(tmp_path)
    (tmp_path / "config.json").unlink()  # it is written last
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_checkpoint(storage)


def test_nothing_is_pickled(tmp_path):
    save(tmp_path)
    files = {path.name: path for path in tmp_path.iterdir()}
    assert sorted(files) == ["config.json", "model.safetensors", "vocab.parquet"]
    weights = files["model.safetensors"].read_bytes()
    header = weights[8 : 8 + int.from_bytes(weights[:8], "little")]
    assert "items.weight" in json.loads(header)  # JSON and raw numbers, nothing else
    assert not zipfile.is_zipfile(files["model.safetensors"])  # what torch.save writes
    assert files["vocab.parquet"].read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize("split_time", [1000, 1001])
def test_weights_that_saw_nothing_after_the_split_may_be_measured(tmp_path, split_time):
    description = read_description(save(tmp_path)[0])
    check_not_trained_past(description, split_time=split_time, path="checkpoint")


def test_weights_trained_past_the_split_are_refused(tmp_path):
    description = read_description(save(tmp_path)[0])
    with pytest.raises(ConfigError, match=r"checkpoint_x .* before 1000 us, .* at 999 us"):
        check_not_trained_past(description, split_time=999, path="checkpoint_x")


def test_the_state_of_a_training_comes_back_bit_for_bit(tmp_path):
    storage = Storage.of(str(tmp_path))
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = {"weights.a": base, "exp_avg.a": base.T[1:3], "best.b": torch.zeros(0)}
    save_tensors(storage, "step-1.safetensors", tensors, {"state": '{"step": 1}'})
    loaded, metadata = parse_tensors(storage.read_bytes("step-1.safetensors"))
    assert metadata == {"state": '{"step": 1}'} and loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


TOO_LARGE = """
import resource, sys, torch
from diffsasrec.model.checkpoint import save_tensors
from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_tensors(Storage.of(sys.argv[1]), "step-1", {"a": torch.zeros(1000)}, {})
except InfrastructureError as error:
    print(error)
"""


@pytest.mark.process
def test_a_state_that_the_disk_refuses_is_told_with_the_remedy(tmp_path):
    command = [sys.executable, "-c", TOO_LARGE, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.startswith(f"writing {tmp_path}/step-1 failed: File too large; the limit on the")
    assert "step-1" not in [path.name for path in tmp_path.iterdir()]


def test_tensors_without_metadata_come_back_too(tmp_path):
    storage, trends = Storage.of(str(tmp_path)), torch.arange(6.0).view(3, 2)
    save_tensors(storage, "trends.safetensors", {"trends": trends}, {})
    loaded, metadata = parse_tensors(storage.read_bytes("trends.safetensors"))
    assert metadata == {} and torch.equal(loaded["trends"], trends)


def test_weights_of_before_there_was_a_ranker_serve_without_one(tmp_path):
    storage, _ = save(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    del description["model"]["ranker"]
    (tmp_path / "config.json").write_text(json.dumps(description))
    model = load_checkpoint(storage).model
    assert model.ranker is None and float(model.ranker_weight) == 0.0


def test_the_weight_of_the_ranker_is_kept(tmp_path):
    model = SequenceModel(CONFIG, 3)
    options: dict[str, Any] = {"config": CONFIG, "vocab": VOCAB, "counts": COUNTS}
    options |= {"weights": model.state_dict(), "trained_before": 1000, "mix": Mix(1.0, 0.25)}
    storage = Storage.of(str(tmp_path))
    save_checkpoint(storage, **options)
    assert float(load_checkpoint(storage).model.ranker_weight) == 0.25


def test_the_weight_of_the_state_is_kept_and_1_in_weights_from_before_it(tmp_path):
    options: dict[str, Any] = {"config": CONFIG, "vocab": VOCAB, "counts": COUNTS}
    options |= {"weights": SequenceModel(CONFIG, 3).state_dict(), "trained_before": 1000}
    for weight, name, chosen in ((0.25, "chosen", {"mix": Mix(0.25)}), (1.0, "default", {})):
        storage = Storage.of(str(tmp_path / name))
        save_checkpoint(storage, **{**options, **chosen})
        assert float(load_checkpoint(storage).model.state_weight) == weight
    data = safetensors.torch.load((tmp_path / "default/model.safetensors").read_bytes())
    del data["state_weight"]
    resave(tmp_path / "default", data)
    assert float(load_checkpoint(Storage.of(str(tmp_path / "default"))).model.state_weight) == 1.0


def test_counters_of_an_earlier_shape_start_afresh_and_serve_nobody(tmp_path, caplog):
    storage, model = save(tmp_path)
    data = safetensors.torch.load((tmp_path / "model.safetensors").read_bytes())
    changed = ("copy_score.", "trends.")  # fewer windows, and other layers
    assert {name.split(".")[0] + "." for name in data} > {*changed}
    cut = {n: t[..., :-3].contiguous() if n.startswith(changed) else t for n, t in data.items()}
    resave(tmp_path, cut)
    with pytest.raises(ConfigError, match=r"of an earlier version, .* train again"):
        load_checkpoint(storage)
    start = load_checkpoint(storage, as_start=True).model
    assert "start afresh" in caplog.text
    assert torch.equal(start.item_weight, model.item_weight)
    fresh = SequenceModel(CONFIG, 3)
    assert start.copy_score is not None and fresh.copy_score is not None
    assert torch.equal(start.copy_score.out.weight, fresh.copy_score.out.weight)
