"""The transformer: what a state sees; padding, batches and order change what they should.

The legend of shapes is that of toy_models.
"""

import pytest
import torch
from torch import Tensor
from toy_models import (
    BIDIRECTIONAL,
    CAUSAL,
    CONFIGS,
    MASKS,
    NUM_ITEMS,
    PREFIX,
    close,
    lively_model,
    states_of,
)

import diffsasrec.model.transformer as model_module
from diffsasrec.model.transformer import SequenceModel


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
    assert states_BLD is not None
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


@torch.no_grad()
def timed_states(
    model: SequenceModel, gaps: list[int] | None, age: int | None, history: list[int]
) -> tuple[Tensor, Tensor]:
    """States of the events and, with the weights of the trends, of what predicts the next item."""
    lengths_B = torch.tensor([len(history)])
    gaps_BL = None if gaps is None else torch.tensor([gaps])
    ages_B = None if age is None else torch.tensor([age])
    encoded = model.encode(torch.tensor([history]), lengths_B, gaps_BL)
    if model.config.kind == "sasrec":
        assert encoded.states_BLD is not None
        return encoded.states_BLD[0], model.queries(encoded.last_states(), ages_B)[0]
    states_BLD, slots_BSD = model.denoise(encoded, MASKS, ages_B=ages_B)
    return states_BLD[0], model.queries(slots_BSD, ages_B)[0]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_gap_changes_the_state_of_its_event_and_those_that_see_it(config):
    model = lively_model(config)
    before, query_before = timed_states(model, [0, 5, 9], 4, [1, 2, 3])
    after, query_after = timed_states(model, [0, 30, 9], 4, [1, 2, 3])
    assert not close(before[1], after[1]) and not close(before[2], after[2])
    assert close(before[0], after[0]) == (config.attention != "bidirectional")
    assert not close(query_before, query_after)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_age_of_a_history_changes_what_predicts_the_next_item(config):
    model = lively_model(config)
    young, old = (timed_states(model, [0, 5, 9], age, [1, 2, 3]) for age in (2, 50))
    assert not close(young[1], old[1])
    assert close(young[0], old[0]) == (config.attention != "bidirectional")


@pytest.mark.parametrize("config", CONFIGS)
def test_unknown_gaps_are_gaps_of_0(config):
    model = lively_model(config)
    unknown, zeros = (timed_states(model, gaps, 4, [1, 2, 3]) for gaps in (None, [0, 0, 0]))
    assert torch.equal(unknown[0], zeros[0]) and torch.equal(unknown[1], zeros[1])


@pytest.mark.parametrize("config", CONFIGS)
def test_without_time_inputs_times_change_nothing(config):
    model = lively_model(config.model_copy(update={"time_inputs": False}))
    one, other = (
        timed_states(model, [0, 5, 9], 4, [1, 2, 3]),
        timed_states(model, None, None, [1, 2, 3]),
    )
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_a_batch_of_one_with_times_equals_a_batch_of_many(config):
    model = lively_model(config)
    histories = [([1], [0]), ([2, 3, 4], [0, 9, 1]), ([5, 6], [7, 50])]
    ages_B = torch.tensor([3, 40, 0])
    items_BL = torch.tensor([items + [0] * (3 - len(items)) for items, _ in histories])
    # what stands behind the end of a history is of no account
    gaps_BL = torch.tensor([gaps + [63] * (3 - len(gaps)) for _, gaps in histories])
    lengths_B = torch.tensor([len(items) for items, _ in histories])
    encoded = model.encode(items_BL, lengths_B, gaps_BL)
    if config.kind == "sasrec":
        queries = model.queries(encoded.last_states(), ages_B)
    else:
        queries = model.queries(model.denoise(encoded, MASKS.expand(3, 3), ages_B=ages_B)[1])
    for row, (items, gaps) in enumerate(histories):
        assert close(timed_states(model, gaps, int(ages_B[row]), items)[1], queries[row])


@torch.no_grad()
@pytest.mark.parametrize("tokens_at_once", [1, 7, 10**6])
def test_parts_of_a_batch_and_places_for_slots_change_no_state(monkeypatch, tokens_at_once):
    # a part of one user, of several, of all
    monkeypatch.setitem(model_module.TOKENS_AT_ONCE, "cpu", tokens_at_once)
    model = lively_model(PREFIX)
    items = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    lengths, gaps = torch.tensor([3, 1, 2]), torch.tensor([[0, 5, 9], [3, 0, 0], [1, 60, 0]])
    ages = torch.tensor([1, 20, 63])
    plain = model.encode(items, lengths, gaps)
    parts = model.encode_for_slots(items, lengths, gaps, num_slots=3)
    for slots in ([[-1], [-1], [-1]], [[-1, 7, -1]] * 3, [[8, -1, -1]] * 3):
        slots_BS = torch.tensor(slots)
        expected = model.denoise(plain, slots_BS, ages_B=ages)[1]
        found = model.denoise_wanted(parts, slots_BS, slots_BS < 0, ages_B=ages)
        assert close(found, expected[slots_BS < 0])
