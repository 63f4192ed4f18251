"""The objective: which parameters learn, and what a batch costs.

The legend of shapes is that of toy_models.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_rows import gradient
from torch import nn
from toy_examples import part_of
from toy_models import BIDIRECTIONAL, CAUSAL, CONFIGS, NUM_ITEMS, PREFIX, lively_model

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.baskets import Baskets
from diffsasrec.model.batch import Batch, in_rows, occurring_items
from diffsasrec.model.features import NUM_GAPS, NUM_TRENDS
from diffsasrec.model.heads.pairs import Pairs
from diffsasrec.model.objective import Objective, batch_loss
from diffsasrec.model.softmax import Negatives
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import DRAWN, Events, Examples


def batch_of(
    config: ModelConfig,
    *,
    boundary: int,
    rank: int = 0,
    world_size: int = 1,
    filter_seen: bool = False,
) -> Batch:
    """Forty histories of five events each; `boundary` is DRAWN or the place of the targets."""
    items = np.arange(200, dtype=np.int32) * 7 % NUM_ITEMS
    events = Events(items, np.arange(200) * 3_600_000_000, np.arange(200) % NUM_GAPS)
    start = np.arange(40) * 5
    boundaries = np.full(40, DRAWN) if boundary == DRAWN else start + boundary
    queries = np.full(40, DRAWN) if boundary == DRAWN else np.arange(40) % 2
    ends = np.where(boundaries == DRAWN, DRAWN, boundaries + 1)
    examples = Examples(start, boundaries, start + 5, first=start, query=queries, basket_end=ends)
    return make_batch(
        events,
        part_of(examples if world_size <= 40 else examples.take(np.arange(1)), rank, world_size),
        query_times=np.array([300, 400]) * 3_600_000_000,
        model=config,
        objective=ObjectiveConfig(),
        generator=torch.Generator().manual_seed(0),
        filter_seen=filter_seen,
    )


def rows_of_batch(batch: Batch, rows: torch.Tensor) -> Batch:
    """Some users of a batch; what its losses are divided by stays."""
    parts: dict[str, Any] = {
        n: t[rows] for n, t in vars(batch).items() if isinstance(t, torch.Tensor)
    }
    for name, pairs in vars(batch).items():
        if isinstance(pairs, Pairs):
            mine = torch.isin(pairs.users_X, rows)
            users_X = torch.searchsorted(rows, pairs.users_X[mine])
            parts[name] = Pairs(users_X, pairs.items_X[mine], pairs.features_XC[mine])
    if (baskets := batch.baskets) is not None:
        mine = torch.isin(baskets.users_Z, rows)
        users_Z = torch.searchsorted(rows, baskets.users_Z[mine])
        parts["baskets"] = Baskets(users_Z, baskets.items_Z[mine])
    return replace(batch, **parts)


def objective_of(
    model: SequenceModel, *, boundary: int, filter_seen: bool = False, seed: int = 0
) -> Objective:
    """With random trends: of all time for windows, else as of the two batch times."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, NUM_ITEMS, 1) if boundary == DRAWN else (2, NUM_ITEMS, NUM_TRENDS)
    trends_QVF = torch.randn(shape, generator=generator)
    return Objective(model, torch.ones(NUM_ITEMS).bool(), trends_QVF, filter_seen=filter_seen)


NEGATIVES = Negatives(torch.tensor([1, 2, 3]), torch.tensor([-0.5, -0.1, -2.0]))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_gradient_reaches_every_parameter_but_those_that_need_a_query_time(config):
    objective = objective_of(SequenceModel(config, NUM_ITEMS), boundary=DRAWN)
    batch = batch_of(config, boundary=DRAWN)
    batch_loss(objective(batch, None), batch, ObjectiveConfig()).backward()
    for name, parameter in objective.model.named_parameters():
        needs_a_query_time = name.startswith(("age", "copy_score", "trends.mix", "trends.of_user"))
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
    batch = batch_of(config, boundary=3, filter_seen=filter_seen)
    batch_loss(objective(batch, None), batch, ObjectiveConfig()).backward()
    assert model.trends is not None and model.copy_score is not None
    assert (gradient(model.trends.weights.bias) != 0).all()
    assert (model.copy_score.out.bias.grad is None) == filter_seen


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("boundary", [DRAWN, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_rows_that_occur_give_the_loss_and_the_gradients_of_the_whole_embedding(
    config, boundary, filter_seen
):
    objective = objective_of(lively_model(config), boundary=boundary, filter_seen=filter_seen)
    batch = batch_of(config, boundary=boundary, filter_seen=filter_seen)
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
            assert torch.allclose(gradient(parameter), expected[name], atol=1e-6), name


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
    whole, *parts = (
        batch_of(
            config, boundary=boundary, rank=rank, world_size=world_size, filter_seen=filter_seen
        )
        for rank, world_size in ((0, 1), (0, 2), (1, 2))
    )
    losses = []
    for part in (whole, *parts):
        batch = replace(part, num_scored=whole.num_scored, num_maskable=whole.num_maskable)
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
    batch = batch_of(CAUSAL, boundary=3, filter_seen=True)
    assert batch.pairs is not None
    seen = [set(batch.history_BL[row, :3].tolist()) for row in range(40)]
    losses = []
    for target in range(NUM_ITEMS):
        basket = Baskets(torch.arange(40), torch.full((40,), target))
        one = replace(batch, next_BL=torch.full_like(batch.next_BL, target), baskets=basket)
        row = replace(one, scored_BL=one.scored_BL & (torch.arange(40) == 7)[:, None])
        losses.append(float(objective(row, None)[0].detach()))
    assert [losses[item] for item in seen[7]] == [0.0] * 3
    rest = [math.exp(-losses[item]) for item in range(NUM_ITEMS) if item not in seen[7]]
    assert sum(rest) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_first_slot_has_the_mean_loss_over_the_basket_without_what_is_filtered(
    config, filter_seen
):
    objective = objective_of(lively_model(config), boundary=3, filter_seen=filter_seen)
    batch = batch_of(config, boundary=3)
    seen = set(batch.history_BL[7, :3].tolist())
    basket = sorted({*range(0, NUM_ITEMS, 3), *list(seen)[:1]})

    def loss_of(items: list[int]) -> float:
        baskets = Baskets(torch.full((len(items),), 7), torch.tensor(items))
        row = (torch.arange(40) == 7)[:, None]
        one = replace(batch, baskets=baskets, scored_BL=batch.scored_BL & row)
        one = replace(one, masked_BT=one.first_slots() & row)
        return float(sum(objective(one, None)).detach())

    left = [item for item in basket if not (filter_seen and item in seen)]
    assert filter_seen == (left != basket)
    expected = sum(loss_of([item]) for item in left) / len(left)
    assert loss_of(basket) == pytest.approx(expected, rel=1e-4)


def test_the_state_is_dropped_for_a_share_of_the_examples_of_fine_tuning_alone():
    model = lively_model(PREFIX)
    objective = objective_of(model, boundary=3)
    objective.state_dropout = 0.5
    batch = batch_of(PREFIX, boundary=3)
    many = replace(batch, lengths_B=torch.ones(10_000))
    torch.manual_seed(0)
    weights = objective.train()._state_weights(many)
    assert set(weights.tolist()) == {0.0, 1.0} and 0.47 < float(weights.mean()) < 0.53
    assert objective.eval()._state_weights(many).all()
    assert objective.train()._state_weights(replace(many, pairs=None)).all()


def test_the_loss_without_the_states_is_that_of_the_counters():
    model = lively_model(PREFIX)
    objective, batch = objective_of(model, boundary=3), batch_of(PREFIX, boundary=3)
    objective.state_dropout = 1.0
    without = objective.train()(batch, None)[1]
    for block in model.parameters():
        block.requires_grad_(False)
    torch.nn.init.normal_(model.positions.weight)  # changes every state
    assert objective(batch, None)[1].item() == pytest.approx(without.item(), rel=1e-6)
