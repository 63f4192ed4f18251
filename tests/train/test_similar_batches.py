"""Similar items in batches: tables as of each batch time, and what the loss makes of the pairs.

Legend: B examples, V items.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from similar_batches import (
    CAUSAL,
    LENGTH,
    NUM_USERS,
    PREFIX,
    QUERY_TIMES,
    TABLES,
    batch_of,
    events,
    examples,
    objective_of,
)
from toy_models import NUM_ITEMS

from diffsasrec.config.training import ObjectiveConfig
from diffsasrec.counters.pairs import Pairing, scored_pairs
from diffsasrec.model.batch import in_rows, occurring_items
from diffsasrec.model.heads.pairs import Extras, Pairs, merged
from diffsasrec.model.objective import batch_loss
from diffsasrec.model.softmax import Negatives
from diffsasrec.sequences.histories import Histories, events_of

filtered = pytest.mark.parametrize("filter_seen", [True, False])


def rows_of(pairs: Pairs | None, user: int) -> list[tuple[int, list[float]]]:
    assert pairs is not None
    mine = pairs.users_X == user
    return list(zip(pairs.items_X[mine].tolist(), pairs.features_XC[mine].tolist(), strict=True))


@filtered
def test_a_batch_of_several_batch_times_has_the_pairs_of_each_user_as_of_its_own(filter_seen):
    batch = batch_of(examples(), CAUSAL, filter_seen=filter_seen)
    assert batch.scored is not None and (batch.scored.users_X.diff() >= 0).all()
    pairing = Pairing.of(CAUSAL, filter_seen=filter_seen)
    known = events()
    for user in range(NUM_USERS):
        source, offsets = events_of(np.array([user * LENGTH, user * LENGTH + 5]), np.array([0]))
        history = Histories(known.items[source], known.times[source], offsets)
        time, table = QUERY_TIMES[user % 3 : user % 3 + 1], TABLES[user % 3]
        alone = rows_of(scored_pairs(history, time, table, pairing), 0)
        assert rows_of(batch.scored, user) == alone
        alone_in_batch = batch_of(
            examples().take(np.array([user])), CAUSAL, filter_seen=filter_seen
        )
        assert rows_of(alone_in_batch.scored, 0) == alone


@filtered
def test_ranks_share_the_pairs_of_a_batch(filter_seen):
    whole = batch_of(examples(), CAUSAL, filter_seen=filter_seen)
    for rank in range(2):
        part = batch_of(examples(), CAUSAL, filter_seen=filter_seen, rank=rank, world_size=2)
        for row, user in enumerate(range(rank, NUM_USERS, 2)):
            assert rows_of(part.scored, row) == rows_of(whole.scored, user)


def test_without_similar_items_a_batch_scores_own_items_or_under_a_filter_nothing():
    model = CAUSAL.model_copy(update={"similar_items": 0})
    batch = batch_of(examples(), model, filter_seen=False)
    assert batch.scored is batch.pairs
    assert batch_of(examples(), model, filter_seen=True).scored is None


def test_similar_items_have_a_score_and_own_ones_no_probability_under_a_filter():
    objective, batch = objective_of(CAUSAL, True), batch_of(examples(), CAUSAL, filter_seen=True)
    blind = replace(batch, scored=None)
    seen = set(batch.history_BL[4, :5].tolist())
    losses = []
    for target in range(NUM_ITEMS):
        for each in (batch, blind):
            only = each.scored_BL & (torch.arange(NUM_USERS) == 4)[:, None]
            row = replace(each, next_BL=torch.full_like(each.next_BL, target), scored_BL=only)
            losses.append(float(objective(row, None)[0].detach()))
    for known in (losses[::2], losses[1::2]):
        assert all(known[item] == 0 for item in seen)
        rest = [np.exp(-known[item]) for item in range(NUM_ITEMS) if item not in seen]
        assert sum(rest) == pytest.approx(1, abs=1e-5)
    assert losses[::2] != pytest.approx(losses[1::2], abs=1e-2)


@pytest.mark.parametrize("model", [CAUSAL, PREFIX])
@filtered
def test_negatives_that_are_the_whole_catalogue_give_the_loss_of_the_whole_softmax(
    model, filter_seen
):
    objective, batch = (
        objective_of(model, filter_seen),
        batch_of(examples(), model, filter_seen=filter_seen),
    )
    every = Negatives(torch.arange(NUM_ITEMS), torch.zeros(NUM_ITEMS))
    for one, other in zip(objective(batch, None), objective(batch, every), strict=True):
        assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-5)


@filtered
def test_the_rows_that_occur_give_the_same_loss_with_similar_items(filter_seen):
    objective = objective_of(CAUSAL, filter_seen)
    batch = batch_of(examples().take(np.arange(2)), CAUSAL, filter_seen=filter_seen)
    negatives = Negatives(torch.tensor([1, 4]), torch.tensor([-0.5, -0.1]))
    loss = batch_loss(objective(batch, negatives), batch, ObjectiveConfig())
    occurs_V = occurring_items(batch, negatives, NUM_ITEMS)
    assert batch.scored is not None and occurs_V[batch.scored.items_X].all()
    rows_U = occurs_V.nonzero()[:, 0]
    replaced = objective.of_rows(rows_U, objective.model.item_weight.detach()[rows_U])
    few = torch.func.functional_call(objective, replaced, in_rows(batch, negatives, rows_U))
    assert len(rows_U) < NUM_ITEMS
    assert batch_loss(few, batch, ObjectiveConfig()).item() == pytest.approx(loss.item(), rel=1e-6)


def test_merged_pairs_stand_by_row_then_item_each_once():
    one = Extras(torch.tensor([0, 2]), torch.tensor([5, 1]), torch.tensor([-torch.inf, -torch.inf]))
    other = Extras(torch.tensor([0, 0, 1]), torch.tensor([2, 7, 3]), torch.tensor([1.0, 2.0, 3.0]))
    both = merged(one, other)
    assert both.rows_Y.tolist() == [0, 0, 0, 1, 2]
    assert both.items_Y.tolist() == [2, 5, 7, 3, 1]
    assert both.scores_Y.tolist() == [1.0, -torch.inf, 2.0, 3.0, -torch.inf]
