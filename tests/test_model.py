"""Legend: B users, L history length, S slots, T history and slots, D hidden size."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffsasrec.batches import DRAWN, Batch, Examples, make_batch
from diffsasrec.config import ModelConfig, ObjectiveConfig
from diffsasrec.model import SequenceModel
from diffsasrec.objective import Objective, batch_loss

NUM_ITEMS = 20
SIZES = {
    "hidden_size": 16,
    "num_blocks": 2,
    "num_heads": 2,
    "dropout": 0.0,
    "max_seq_len": 6,
    "num_slots": 3,
}
CAUSAL = ModelConfig(kind="sasrec", attention="causal", **SIZES)
PREFIX = ModelConfig(kind="diffusion", attention="prefix", **SIZES)
BIDIRECTIONAL = ModelConfig(kind="diffusion", attention="bidirectional", **SIZES)
MASKS = torch.tensor([[-1, -1, -1]])


def lively_model(config: ModelConfig) -> SequenceModel:
    """Random weights so large that an input which should matter does."""
    model = SequenceModel(config, NUM_ITEMS, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            parameter.add_(0.3 * noise)
    return model


@torch.no_grad()
def states_of(
    model: SequenceModel, history: list[int], slots: Tensor = MASKS, *, pad: int = 0, fill: int = 0
) -> tuple[Tensor, Tensor]:
    """States [L, D] of the events and [S, D] of the slots, `pad` times `fill` behind the events."""
    items_BL = torch.tensor([history + [fill] * pad], dtype=torch.int64)
    encoded = model.encode(items_BL, torch.tensor([len(history)]))
    if model.config.kind == "sasrec":
        assert encoded.states_BLD is not None
        return encoded.states_BLD[0, : len(history)], torch.zeros(0)
    states_BLD, slots_BSD = model.denoise(encoded, slots)
    return states_BLD[0, : len(history)], slots_BSD[0]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("config", [CAUSAL, PREFIX])
def test_a_history_state_sees_nothing_later(config):
    model = lively_model(config)
    before, _ = states_of(model, [1, 2, 3, 4])
    after, _ = states_of(model, [1, 2, 3, 9])
    assert close(before[:3], after[:3]) and not close(before[3], after[3])


@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_a_history_state_sees_what_is_earlier(config):
    model = lively_model(config)
    before, _ = states_of(model, [1, 2, 3, 4])
    after, _ = states_of(model, [9, 2, 3, 4])
    assert not any(close(before[place], after[place]) for place in range(4))


def test_a_later_event_changes_an_earlier_state_where_attention_is_bidirectional():
    model = lively_model(BIDIRECTIONAL)
    before, _ = states_of(model, [1, 2, 3, 4])
    after, _ = states_of(model, [1, 2, 3, 9])
    assert not any(close(before[place], after[place]) for place in range(4))


def test_a_slot_never_changes_a_history_state_under_prefix_attention():
    model = lively_model(PREFIX)
    masked, _ = states_of(model, [1, 2, 3])
    committed, _ = states_of(model, [1, 2, 3], torch.tensor([[7, -1, 8]]))
    assert torch.equal(masked, committed)


@pytest.mark.parametrize("config", [PREFIX, BIDIRECTIONAL])
def test_slots_see_each_other_and_the_history(config):
    model = lively_model(config)
    _, masked = states_of(model, [1, 2, 3])
    _, last_committed = states_of(model, [1, 2, 3], torch.tensor([[-1, -1, 7]]))
    _, other_history = states_of(model, [9, 2, 3])
    assert not any(close(masked[slot], last_committed[slot]) for slot in range(3))
    assert not any(close(masked[slot], other_history[slot]) for slot in range(3))


@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_padding_changes_nothing(config):
    model = lively_model(config)
    alone = states_of(model, [1, 2, 3])
    for pad, fill in ((3, 0), (1, 7), (3, 19)):
        padded = states_of(model, [1, 2, 3], pad=pad, fill=fill)
        assert close(alone[0], padded[0]) and close(alone[1], padded[1])


@pytest.mark.parametrize("config", [PREFIX, BIDIRECTIONAL])
def test_slots_that_do_not_exist_change_nothing(config):
    model = lively_model(config)
    encoded = model.encode(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    with torch.no_grad():
        one_history, one_slot = model.denoise(encoded, torch.tensor([[-1]]))
        history, slots = model.denoise(encoded, torch.tensor([[-1, 5, 6]]), torch.tensor([1]))
    assert close(one_history, history) and close(one_slot[0, 0], slots[0, 0])


@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_a_batch_of_one_equals_a_batch_of_many(config):
    model = lively_model(config)
    histories = [[1], [2, 3], [4, 5, 6, 7, 8, 9], [3, 3, 3], [10, 0, 10, 0, 10]]
    items_BL = torch.tensor([history + [0] * (6 - len(history)) for history in histories])
    lengths_B = torch.tensor([len(history) for history in histories])
    with torch.no_grad():
        encoded = model.encode(items_BL, lengths_B)
        states_BLD = encoded.states_BLD
        if config.kind == "diffusion":
            states_BLD, slots_BSD = model.denoise(encoded, MASKS.expand(5, 3))
    for row, history in enumerate(histories):
        alone, slots = states_of(model, history)
        assert close(alone, states_BLD[row, : len(history)])
        assert config.kind == "sasrec" or close(slots, slots_BSD[row])


@pytest.mark.parametrize("config", [PREFIX, BIDIRECTIONAL])
def test_the_slots_of_an_empty_history_have_states(config):
    model = lively_model(config)
    _, alone = states_of(model, [], pad=1)
    _, padded = states_of(model, [], pad=6, fill=3)
    assert torch.isfinite(alone).all() and close(alone, padded)


@pytest.mark.parametrize("config", [PREFIX, BIDIRECTIONAL])
def test_a_row_with_neither_history_nor_slot_harms_no_other(config):
    model = lively_model(config)
    encoded = model.encode(torch.tensor([[0, 0], [1, 2]]), torch.tensor([0, 2]))
    with torch.no_grad():
        _, slots = model.denoise(encoded, torch.tensor([[-1], [-1]]), torch.tensor([0, 1]))
    assert torch.isfinite(slots).all()
    assert close(slots[1], states_of(model, [1, 2], torch.tensor([[-1]]))[1])


def test_positions_are_counted_from_the_newest_event():
    model = lively_model(CAUSAL)
    seen: list[Tensor] = []
    model.positions.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.encode(torch.tensor([[1, 2, 0, 0], [1, 2, 3, 4]]), torch.tensor([2, 4]))
    assert seen[0][0, :2].tolist() == [4, 5] and seen[0][1].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_the_order_of_a_history_matters(config):
    model = lively_model(config)
    forward, backward = states_of(model, [1, 2, 3]), states_of(model, [2, 1, 3])
    assert not close(forward[0][2], backward[0][2])


@pytest.mark.parametrize("config", [PREFIX, BIDIRECTIONAL])
def test_a_mask_is_not_an_item(config):
    model = lively_model(config)
    _, masked = states_of(model, [1, 2, 3])
    _, item = states_of(model, [1, 2, 3], torch.tensor([[0, -1, -1]]))
    assert not close(masked[0], item[0])


def test_last_states_are_those_of_the_newest_events():
    model = lively_model(CAUSAL)
    encoded = model.encode(torch.tensor([[1, 2, 0], [4, 5, 6]]), torch.tensor([2, 3]))
    assert close(encoded.last_states()[0], states_of(model, [1, 2])[0][1])
    assert close(encoded.last_states()[1], states_of(model, [4, 5, 6])[0][2])


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, two = (SequenceModel(PREFIX, NUM_ITEMS, seed=5) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_larger_catalogue_moves_no_other_shape():
    small, large = (SequenceModel(PREFIX, num_items).state_dict() for num_items in (20, 30))
    changed = [name for name in small if small[name].shape != large[name].shape]
    assert changed == ["items.weight"]


def batch_of(config: ModelConfig, *, boundary: int, rank: int = 0, world_size: int = 1) -> Batch:
    """Forty histories of five events each; `boundary` is DRAWN or the place of the targets."""
    items = np.arange(200, dtype=np.int32) * 7 % NUM_ITEMS
    start = np.arange(40) * 5
    boundaries = np.full(40, DRAWN) if boundary == DRAWN else start + boundary
    if world_size > 40:
        start, boundaries = start[:1], boundaries[:1]
    return make_batch(
        items,
        Examples(start, boundaries, start + 5),
        model=config,
        objective=ObjectiveConfig(),
        generator=torch.Generator().manual_seed(0),
        rank=rank,
        world_size=world_size,
    )


@pytest.mark.parametrize("boundary", [DRAWN, 3])
@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_a_gradient_reaches_every_parameter(config, boundary):
    objective = Objective(SequenceModel(config, NUM_ITEMS), torch.ones(NUM_ITEMS).bool())
    batch = batch_of(config, boundary=boundary)
    batch_loss(objective(batch, None), batch, ObjectiveConfig()).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("negatives", [None, torch.tensor([1, 2, 3])])
@pytest.mark.parametrize("boundary", [DRAWN, 3])
@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_a_rank_without_a_row_adds_nothing_and_still_has_every_gradient(
    config, boundary, negatives
):
    objective = Objective(SequenceModel(config, NUM_ITEMS), torch.ones(NUM_ITEMS).bool())
    batch = batch_of(config, boundary=boundary, rank=1, world_size=41)
    loss = batch_loss(objective(batch, negatives), batch, ObjectiveConfig())
    loss.backward()
    assert loss.item() == 0.0
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_the_loss_is_the_mean_over_the_scored_places_of_the_whole_batch():
    objective = Objective(SequenceModel(CAUSAL, NUM_ITEMS), torch.ones(NUM_ITEMS).bool())
    nn.init.zeros_(objective.model.items.weight)  # every item is equally probable
    batch = batch_of(CAUSAL, boundary=DRAWN)
    loss = batch_loss(objective(batch, None), batch, ObjectiveConfig())
    assert loss.item() == pytest.approx(np.log(NUM_ITEMS))


def test_the_parts_of_two_ranks_add_up_to_the_loss_of_one():
    for config in (CAUSAL, PREFIX, BIDIRECTIONAL):
        objective = Objective(lively_model(config), torch.ones(NUM_ITEMS).bool())
        losses = []
        for rank, world_size in ((0, 1), (0, 2), (1, 2)):
            batch = batch_of(config, boundary=DRAWN, rank=rank, world_size=world_size)
            losses.append(batch_loss(objective(batch, None), batch, ObjectiveConfig()).item())
        assert losses[1] + losses[2] == pytest.approx(losses[0], rel=1e-5)
