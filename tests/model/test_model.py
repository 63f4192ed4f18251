"""Legend: B users, L history length, S slots, T history and slots, D hidden size, V items, F trend
features, W width of the item vectors, X pairs (user, item of the history)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diffsasrec.model.transformer as model_module
from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.features import NUM_GAPS, NUM_OWN, NUM_TRENDS
from diffsasrec.model.heads import NUM_MIXED, Pairs
from diffsasrec.model.objective import Batch, Objective, batch_loss, in_rows, occurring_items
from diffsasrec.model.softmax import Extras, Negatives
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import DRAWN, Events, Examples

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
CONFIGS = [CAUSAL, PREFIX, BIDIRECTIONAL]
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
    events = Events(items, np.arange(200) * 3_600_000_000, np.arange(200) % NUM_GAPS)
    start = np.arange(40) * 5
    boundaries = np.full(40, DRAWN) if boundary == DRAWN else start + boundary
    queries = np.full(40, DRAWN) if boundary == DRAWN else np.arange(40) % 2
    examples = Examples(start, boundaries, start + 5, first=start, query=queries)
    return make_batch(
        events,
        examples if world_size <= 40 else examples.take(np.arange(1)),
        query_times=np.array([300, 400]) * 3_600_000_000,
        model=config,
        objective=ObjectiveConfig(),
        generator=torch.Generator().manual_seed(0),
        rank=rank,
        world_size=world_size,
    )


def rows_of_batch(batch: Batch, rows: torch.Tensor) -> Batch:
    """Some users of a batch; what its losses are divided by stays."""
    pairs = batch.pairs
    if pairs is not None:
        mine = torch.isin(pairs.users_X, rows)
        users_X = torch.searchsorted(rows, pairs.users_X[mine])
        pairs = Pairs(users_X, pairs.items_X[mine], pairs.features_XC[mine])
    tensors = {n: t[rows] for n, t in vars(batch).items() if isinstance(t, torch.Tensor)}
    return replace(batch, pairs=pairs, **tensors)


def objective_of(
    model: SequenceModel, *, boundary: int, filter_seen: bool = False, seed: int = 0
) -> Objective:
    """With random trends: of all time for windows, else as of the two batch times."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, NUM_ITEMS, 1) if boundary == DRAWN else (2, NUM_ITEMS, NUM_TRENDS)
    trends_QVF = torch.randn(shape, generator=generator)
    return Objective(model, torch.ones(NUM_ITEMS).bool(), trends_QVF, filter_seen=filter_seen)


NEGATIVES = Negatives(torch.tensor([1, 2, 3]), torch.tensor([-0.5, -0.1, -2.0]))
COUNTER_PARTS = ("age", "trends", "copy_score")


@pytest.mark.parametrize("config", CONFIGS)
def test_a_gradient_reaches_every_parameter_but_those_that_need_a_query_time(config):
    objective = objective_of(SequenceModel(config, NUM_ITEMS), boundary=DRAWN)
    batch = batch_of(config, boundary=DRAWN)
    batch_loss(objective(batch, None), batch, ObjectiveConfig()).backward()
    for name, parameter in objective.model.named_parameters():
        needs_a_query_time = name.startswith(("age", "copy_score", "trends.mix"))
        assert (parameter.grad is not None and bool(parameter.grad.any())) != needs_a_query_time


@pytest.mark.parametrize("config", CONFIGS)
def test_with_a_query_time_a_gradient_reaches_every_parameter(config):
    # of fresh weights some are 0, and nothing flows through them
    objective = objective_of(lively_model(config), boundary=3)
    batch = batch_of(config, boundary=3)
    batch_loss(objective(batch, None), batch, ObjectiveConfig()).backward()
    for name, parameter in objective.model.named_parameters():
        if name.startswith("age") and config.kind == "diffusion":
            continue  # its slots carry the age
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("config", CONFIGS)
def test_fresh_counters_learn_from_the_first_step_on(config, filter_seen):
    model = SequenceModel(config, NUM_ITEMS)
    objective = objective_of(model, boundary=3, filter_seen=filter_seen)
    batch = batch_of(config, boundary=3)
    batch_loss(objective(batch, None), batch, ObjectiveConfig()).backward()
    assert model.trends is not None and model.copy_score is not None
    assert (model.trends.weights.bias.grad != 0).all()
    assert (model.copy_score.out.bias.grad is None) == filter_seen


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("boundary", [DRAWN, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_rows_that_occur_give_the_loss_and_the_gradients_of_the_whole_embedding(
    config, boundary, filter_seen
):
    objective = objective_of(lively_model(config), boundary=boundary, filter_seen=filter_seen)
    batch = batch_of(config, boundary=boundary)
    # every four users touch the same items, and half of the items occur nowhere now
    batch = rows_of_batch(batch, (torch.arange(40) % 4 < 2).nonzero()[:, 0])
    loss = batch_loss(objective(batch, NEGATIVES), batch, ObjectiveConfig())
    loss.backward()
    expected = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    whole_VD = expected.pop("model.items.weight")
    objective.zero_grad(set_to_none=True)
    occurs_V = occurring_items(batch, NEGATIVES, NUM_ITEMS)
    assert 3 < occurs_V.sum() < NUM_ITEMS
    rows_U = occurs_V.nonzero()[:, 0]
    taken_UD = objective.model.item_weight.detach()[rows_U].requires_grad_()
    replaced = objective.of_rows(rows_U, taken_UD)
    sums = torch.func.functional_call(objective, replaced, in_rows(batch, NEGATIVES, rows_U))
    by_rows = batch_loss(sums, batch, ObjectiveConfig())
    by_rows.backward()
    assert by_rows.item() == pytest.approx(loss.item(), rel=1e-6)
    assert objective.model.item_weight.grad is None
    assert taken_UD.grad is not None and torch.allclose(taken_UD.grad, whole_VD[rows_U], atol=1e-6)
    assert not whole_VD[~occurs_V].any()
    for name, parameter in objective.named_parameters():
        if name in expected:
            assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


@pytest.mark.parametrize("negatives", [None, NEGATIVES])
@pytest.mark.parametrize("boundary", [DRAWN, 3])
@pytest.mark.parametrize("config", [CAUSAL, PREFIX, BIDIRECTIONAL])
def test_a_rank_without_a_row_adds_nothing_and_goes_backward_all_the_same(
    config, boundary, negatives
):
    objective = objective_of(lively_model(config), boundary=boundary)
    batch = batch_of(config, boundary=boundary, rank=1, world_size=41)
    loss = batch_loss(objective(batch, negatives), batch, ObjectiveConfig())
    loss.backward()
    assert loss.item() == 0.0
    for name, parameter in objective.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_the_loss_is_the_mean_over_the_scored_places_of_the_whole_batch():
    objective = objective_of(SequenceModel(CAUSAL, NUM_ITEMS), boundary=DRAWN)
    nn.init.zeros_(objective.model.items.weight)  # every item is equally probable
    nn.init.zeros_(objective.trends_QVF)
    batch = batch_of(CAUSAL, boundary=DRAWN)
    loss = batch_loss(objective(batch, None), batch, ObjectiveConfig())
    assert loss.item() == pytest.approx(np.log(NUM_ITEMS))


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("boundary", [DRAWN, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_parts_of_two_ranks_add_up_to_the_loss_of_one(config, boundary, filter_seen):
    objective = objective_of(lively_model(config), boundary=boundary, filter_seen=filter_seen)
    losses = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        batch = batch_of(config, boundary=boundary, rank=rank, world_size=world_size)
        losses.append(batch_loss(objective(batch, None), batch, ObjectiveConfig()).item())
    assert losses[1] + losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_losses_of_two_batch_times_add_up_to_that_of_the_batch(config):
    objective = objective_of(lively_model(config), boundary=3)
    batch = batch_of(config, boundary=3)
    assert batch.queries_B.tolist()[:3] == [0, 1, 0] and batch.pairs is not None
    whole = batch_loss(objective(batch, None), batch, ObjectiveConfig()).item()
    parts = 0.0
    for query in (0, 1):
        (rows,) = (batch.queries_B == query).nonzero(as_tuple=True)
        part = rows_of_batch(batch, rows)
        parts += batch_loss(objective(part, None), part, ObjectiveConfig()).item()
    assert parts == pytest.approx(whole, rel=1e-5)


def test_filtered_items_cost_nothing_as_targets_and_take_no_probability():
    objective = objective_of(lively_model(CAUSAL), boundary=3, filter_seen=True)
    batch = batch_of(CAUSAL, boundary=3)
    assert batch.pairs is not None
    seen = [set(batch.history_BL[row, :3].tolist()) for row in range(40)]
    losses = []
    for target in range(NUM_ITEMS):
        one = replace(batch, next_BL=torch.full_like(batch.next_BL, target))
        row = replace(one, scored_BL=one.scored_BL & (torch.arange(40) == 7)[:, None])
        losses.append(float(objective(row, None)[0].detach()))
    assert [losses[item] for item in seen[7]] == [0.0] * 3
    rest = [math.exp(-losses[item]) for item in range(NUM_ITEMS) if item not in seen[7]]
    assert sum(rest) == pytest.approx(1, abs=1e-5)


# --- what is known as of a query time ---

OFF = {"time_inputs": False, "trends": False, "copy_score": False}


def random_pairs(owners: list[int], items: list[int], seed: int = 0) -> Pairs:
    features_XC = torch.randn(len(owners), NUM_OWN, generator=torch.Generator().manual_seed(seed))
    return Pairs(torch.tensor(owners), torch.tensor(items), features_XC)


def random_states(num: int, seed: int = 0) -> Tensor:
    return torch.randn(num, SIZES["hidden_size"], generator=torch.Generator().manual_seed(seed))


def random_trends(seed: int = 0) -> Tensor:
    return torch.randn(NUM_ITEMS, NUM_TRENDS, generator=torch.Generator().manual_seed(seed))


PAIRS = random_pairs([0, 0, 1, 3], [2, 5, 2, 19])


def copy_scores(
    model: SequenceModel, queries: Tensor, users: Tensor, pairs: Pairs, trends: Tensor | None
) -> Extras:
    own = model.own_items(pairs, None if trends is None else trends[pairs.items_X])
    return own.of_rows(queries, users)


@torch.no_grad()
def test_fresh_weights_add_popularity_of_all_time_and_nothing_else():
    for config in CONFIGS:
        model, states, trends = SequenceModel(config, NUM_ITEMS), random_states(4), random_trends()
        ages = torch.tensor([0, 7, 33, 63])
        queries = model.queries(states, ages)
        expected = states @ model.item_weight.T + trends[:, 0]
        assert torch.allclose(queries @ model.item_vectors(trends).T, expected, atol=1e-5)
        users = torch.tensor([3, 0, 1, 2])
        extras = copy_scores(model, queries, users, PAIRS, trends)
        assert len(extras.scores_Y) == 4 and not extras.scores_Y.any()


@torch.no_grad()
def test_pretraining_scores_as_fine_tuning_starts():
    # one column of trends, then all of them: the first logits are the same
    model, states, trends = SequenceModel(PREFIX, NUM_ITEMS), random_states(4), random_trends()
    narrow, wide = model.item_vectors(trends[:, :1]), model.item_vectors(trends)
    queries = model.queries(states)
    logits = queries[:, : narrow.shape[1]] @ narrow.T
    assert torch.allclose(logits, queries @ wide.T, atol=1e-5)


def test_the_width_of_vectors_and_queries_is_that_of_the_model_and_its_trends():
    model, size = lively_model(CAUSAL), SIZES["hidden_size"]
    width = size + NUM_TRENDS + NUM_MIXED
    assert model.item_vectors(random_trends()).shape == (NUM_ITEMS, width)
    assert model.item_vectors(random_trends()[:, :1]).shape == (NUM_ITEMS, size + 1)
    assert torch.equal(model.item_vectors(None), model.item_weight)
    queries = model.queries(random_states(3))
    assert queries.shape == (3, width) and torch.equal(queries[:, :size], random_states(3))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_without_counters_has_none_of_their_weights_and_ignores_trends(config):
    model = SequenceModel(config.model_copy(update=OFF), NUM_ITEMS)
    assert not any(n.startswith(("gaps", *COUNTER_PARTS)) for n, _ in model.named_parameters())
    assert model.counter_parameters() == []
    assert torch.equal(model.item_vectors(random_trends()), model.item_weight)
    assert torch.equal(model.queries(random_states(3), torch.tensor([1, 2, 3])), random_states(3))


def test_each_flag_brings_its_own_weights():
    parts = {"time_inputs": {"gaps", "age"}, "trends": {"trends"}, "copy_score": {"copy_score"}}
    plain = CAUSAL.model_copy(update=OFF)
    least = {name.split(".")[0] for name, _ in SequenceModel(plain, NUM_ITEMS).named_parameters()}
    for flag, expected in parts.items():
        model = SequenceModel(plain.model_copy(update={flag: True}), NUM_ITEMS)
        assert {name.split(".")[0] for name, _ in model.named_parameters()} - least == expected


def test_counter_parameters_are_those_that_mean_nothing_without_a_query_time():
    model = SequenceModel(CAUSAL, NUM_ITEMS)
    found = {id(parameter) for parameter in model.counter_parameters()}
    named = dict(model.named_parameters())
    assert {n for n, p in named.items() if id(p) in found} == {
        name for name in named if name.startswith(COUNTER_PARTS)
    }


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
def test_copy_scores_are_those_of_each_users_pairs_one_by_one():
    model, trends, users = lively_model(CAUSAL), random_trends(), torch.tensor([3, 0, 2, 0])
    queries = model.queries(random_states(4))
    extras = copy_scores(model, queries, users, PAIRS, trends)
    pairs = list(zip(extras.rows_Y.tolist(), extras.items_Y.tolist(), strict=True))
    assert pairs == [(0, 19), (1, 2), (1, 5), (3, 2), (3, 5)]  # user 2 has no pair
    for at, (row, item) in enumerate(pairs):
        of_user = (PAIRS.users_X == users[row]) & (PAIRS.items_X == item)
        alone = Pairs(*(tensor[of_user] for tensor in vars(PAIRS).values()))
        score = copy_scores(model, queries[row : row + 1], users[row : row + 1], alone, trends)
        assert close(score.scores_Y[0], extras.scores_Y[at])
    assert len(set(extras.scores_Y.tolist())) == len(pairs)


@torch.no_grad()
def test_a_copy_score_reads_the_numbers_of_its_pair_the_trends_of_its_item_and_the_state():
    model, users = lively_model(CAUSAL), torch.tensor([0])
    queries, trends = model.queries(random_states(1)), random_trends()
    scores = copy_scores(model, queries, users, PAIRS, trends).scores_Y
    other_numbers = random_pairs([0, 0, 1, 3], [2, 5, 2, 19], seed=1)
    other_trends = trends.clone()
    other_trends[5] += 1
    assert not close(scores, copy_scores(model, queries, users, other_numbers, trends).scores_Y)
    moved = copy_scores(model, queries, users, PAIRS, other_trends).scores_Y
    assert close(scores[0], moved[0]) and not close(scores[1], moved[1])
    other_state = model.queries(random_states(1, seed=1))
    assert not close(scores, copy_scores(model, other_state, users, PAIRS, trends).scores_Y)


@torch.no_grad()
def test_trends_that_are_not_known_are_trends_of_0():
    model, users = lively_model(CAUSAL), torch.tensor([0, 1])
    queries = model.queries(random_states(2))
    unknown = copy_scores(model, queries, users, PAIRS, None)
    zeros = copy_scores(model, queries, users, PAIRS, torch.zeros(NUM_ITEMS, NUM_TRENDS))
    assert torch.equal(unknown.scores_Y, zeros.scores_Y)


@torch.no_grad()
def test_no_copy_score_rises_by_more_than_its_bound():
    model, trends = lively_model(CAUSAL), random_trends()
    own = model.own_items(PAIRS, trends[PAIRS.items_X])
    users = torch.tensor([0, 0, 1, 3])
    for seed, scale in enumerate([0.01, 0.3, 3.0, 30.0]):
        before = model.queries(random_states(4))
        after = before + scale * model.queries(random_states(4, seed=seed + 1))
        rise = own.rise(before, after)
        rows = own.of_rows(before, users).rows_Y
        risen = own.of_rows(after, users).scores_Y - own.of_rows(before, users).scores_Y
        assert (risen <= rise[rows] + 1e-4).all()
    assert not own.rise(before, before).any()


@torch.no_grad()
def test_copy_scores_among_some_pairs_are_theirs():
    model, trends = lively_model(CAUSAL), random_trends()
    own = model.own_items(PAIRS, trends[PAIRS.items_X])
    queries, users = model.queries(random_states(3)), torch.tensor([0, 1, 3])
    whole = own.of_rows(queries, users)
    # user 0 has 2 and 5, user 1 has 2, user 3 has 19; nobody has 7
    some = own.among(torch.tensor([0, 0, 3]), torch.tensor([5, 7, 19])).of_rows(queries, users)
    assert list(zip(some.rows_Y.tolist(), some.items_Y.tolist(), strict=True)) == [(0, 5), (2, 19)]
    expected = dict(
        zip(
            zip(whole.rows_Y.tolist(), whole.items_Y.tolist(), strict=True),
            whole.scores_Y.tolist(),
            strict=True,
        )
    )
    assert some.scores_Y.tolist() == pytest.approx([expected[0, 5], expected[2, 19]], abs=1e-6)


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
