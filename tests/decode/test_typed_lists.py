"""A model that sees the types of events, and the lists that it makes."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from toy_models import CONFIGS, NUM_ITEMS, SIZES
from typed_events import TYPES, C, P, V, typed

from diffsasrec.config.data import EventTypeConfig
from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import ModelConfig
from diffsasrec.decode.moment import Moment
from diffsasrec.decode.recommender import Recommender
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.event_types import EventTypes
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint, save_checkpoint
from diffsasrec.model.features import NUM_TRENDS
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.times import DAY
from jobs.training.carry_over import carried_over

ITEMS = np.array([3, 5, 3, 9], np.int32)
TIMES = np.arange(1, 5) * DAY
OFFSETS = np.array([0, 4])
PREFIX = ModelConfig(**SIZES)


def model_of(config: ModelConfig, types: EventTypes | None, *, lively: bool = True) -> Any:
    model = SequenceModel(config, NUM_ITEMS, seed=1, types=types).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "types.weight":
                generator = torch.Generator().manual_seed(2)
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            elif lively:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def lists_of(model: Any, codes: list[int] | None, types: EventTypes = TYPES, **more: Any) -> Any:
    decode = "single" if model.config.kind == "sasrec" else "multi"
    settings: dict[str, Any] = {"k": 3, "decode": decode, "steps": 2, "filter_seen": False} | more
    recommender = Recommender(
        model,
        moment=Moment(6 * DAY, np.zeros((NUM_ITEMS, NUM_TRENDS), np.float32)),
        allowed=np.ones(NUM_ITEMS, bool),
        decoding=DecodingConfig(**settings, explore_items=0),
    )
    given = None if codes is None else typed(codes, types)
    return recommender.recommend(ITEMS, TIMES, OFFSETS, types=given)


@pytest.mark.parametrize("config", CONFIGS)
def test_an_untrained_embedding_of_types_changes_no_state(config):
    plain, with_types = model_of(config, None), model_of(config, TYPES, lively=False)
    items, lengths, codes = (torch.tensor(x) for x in ([[1, 2, 3]], [3], [[V, P, C]]))
    slots = torch.tensor([[-1, -1]])
    for one, other in zip(
        (plain.encode(items, lengths),),
        (with_types.encode(items, lengths, None, codes),),
        strict=True,
    ):
        if config.kind == "sasrec":
            assert torch.equal(one.states_BLD, other.states_BLD)
        else:
            assert torch.equal(plain.denoise(one, slots)[1], with_types.denoise(other, slots)[1])


def test_all_other_weights_start_as_they_do_without_types():
    plain = SequenceModel(PREFIX, NUM_ITEMS, seed=1).state_dict()
    with_types = SequenceModel(PREFIX, NUM_ITEMS, seed=1, types=TYPES).state_dict()
    assert with_types.keys() - plain.keys() == {"types.weight"}
    assert all(torch.equal(with_types[name], tensor) for name, tensor in plain.items())
    assert not with_types["types.weight"].any()


@pytest.mark.parametrize("decode", ["single", "multi", "autoregressive"])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_type_of_an_event_changes_the_scores(config, decode):
    if config.kind == "sasrec" and decode == "multi":
        return
    model = model_of(config, TYPES)
    one, other = (lists_of(model, codes, decode=decode)[1] for codes in ([V] * 4, [P] * 4))
    assert np.isfinite(one).all() and not np.allclose(one, other, atol=1e-3)


def test_slots_ask_for_the_target_type():
    model = model_of(PREFIX, TYPES)
    history = model.encode(torch.tensor([[1, 2]]), torch.tensor([2]), None, torch.tensor([[V, P]]))
    slots = torch.tensor([[-1, 4]])
    asked, given, viewed = (
        model.denoise(history, slots, types_BS=codes)[1]
        for codes in (None, torch.full((1, 2), P), torch.full((1, 2), V))
    )
    assert torch.equal(asked, given) and not torch.allclose(asked, viewed, atol=1e-3)


def test_only_items_of_seen_types_are_filtered():
    model = model_of(PREFIX, TYPES)
    everything: dict[str, Any] = {"k": NUM_ITEMS, "decode": "single", "filter_seen": True}
    items, _ = lists_of(model, [V, P, C, V], **everything)
    assert {*range(NUM_ITEMS)} - {*items[0].tolist()} == {3, 5}  # 9 was only viewed
    items, _ = lists_of(model, [V, V, V, V], **everything)
    assert -1 not in items[0]


def test_histories_of_other_types_are_refused():
    model = model_of(PREFIX, TYPES)
    with pytest.raises(ConfigError, match="types view, cart, purchase, and the histories have no"):
        lists_of(model, None)
    others = EventTypes.of({name: EventTypeConfig() for name in ("a", "b", "c")})
    with pytest.raises(ConfigError, match=r"have a, b, c; give the same ones in events\.types"):
        lists_of(model, [V] * 4, others)


# --- checkpoints ---


def saved(directory: Any, types: EventTypes | None) -> Storage:
    storage = Storage.of(str(directory))
    save_checkpoint(
        storage,
        weights=model_of(PREFIX, types).state_dict(),
        config=PREFIX,
        vocab=pa.table({"item_id": range(NUM_ITEMS), "index": range(NUM_ITEMS)}),
        counts=np.ones(NUM_ITEMS, np.int64),
        trained_before=1000,
        types=types,
    )
    return storage


def test_a_checkpoint_brings_its_types_back(tmp_path):
    loaded = load_checkpoint(saved(tmp_path, TYPES)).model
    assert loaded.event_types == TYPES
    one, other = (lists_of(model, [V, P, C, V]) for model in (loaded, model_of(PREFIX, TYPES)))
    assert (one[0] == other[0]).all() and (one[1] == other[1]).all()


def test_a_checkpoint_without_types_says_nothing_of_them(tmp_path):
    storage = saved(tmp_path, None)
    assert "event_types" not in json.loads(storage.read_bytes("config.json"))
    assert load_checkpoint(storage).model.event_types is None


@pytest.mark.parametrize(
    "forged",
    [
        [],
        None,
        {"names": ["a"]},
        {"names": ["a"], "weights": [1.0], "targets": [False], "seen": [True]},
        {"names": ["a", 5], "weights": [1.0, 1.0], "targets": [True, True], "seen": [True, True]},
        {"names": ["a"], "weights": [1.0, 2.0], "targets": [True], "seen": [True]},
        {"names": "a", "weights": [1.0], "targets": [True], "seen": [True]},
    ],
)
def test_forged_types_are_refused(tmp_path, forged):
    storage = saved(tmp_path, TYPES)
    description = json.loads(storage.read_bytes("config.json"))
    text = json.dumps({**description, "event_types": forged}).encode()
    storage.write_bytes("config.json", text)
    with pytest.raises(InfrastructureError, match="event_types"):
        load_checkpoint(storage)


def test_a_warm_start_takes_types_over_by_their_names(tmp_path, caplog):
    start = load_checkpoint(saved(tmp_path, TYPES))
    mine = EventTypes.of(
        {"wish": EventTypeConfig(weight=0.1, target=False), "purchase": EventTypeConfig()}
    )
    with caplog.at_level("INFO"):
        weights = carried_over(start, start.vocab, config=PREFIX, seed=5, types=mine)
    assert start.model.types is not None
    theirs = start.model.types.weight.detach()
    assert torch.equal(weights["types.weight"], torch.stack([torch.zeros(16), theirs[P]]))
    assert "taken over: purchase; new: wish; left out: cart, view" in caplog.text
    SequenceModel(PREFIX, NUM_ITEMS, types=mine).load_state_dict(weights)


def test_a_warm_start_may_be_the_first_with_types_or_the_first_without(tmp_path):
    typed_start = load_checkpoint(saved(tmp_path / "typed", TYPES))
    weights = carried_over(typed_start, typed_start.vocab, config=PREFIX, seed=5)
    SequenceModel(PREFIX, NUM_ITEMS).load_state_dict(weights)
    plain_start = load_checkpoint(saved(tmp_path / "plain", None))
    weights = carried_over(plain_start, plain_start.vocab, config=PREFIX, seed=5, types=TYPES)
    assert not weights["types.weight"].any()
    SequenceModel(PREFIX, NUM_ITEMS, types=TYPES).load_state_dict(weights)
