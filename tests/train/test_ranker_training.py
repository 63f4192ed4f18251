"""How the ranker is trained: beside the other weights, and without touching them."""

from dataclasses import replace

import numpy as np
import torch
from similar_batches import CAUSAL, TABLES, batch_of, events, examples, objective_of
from trainings import FINETUNE, MODELS, PRETRAIN, make_job, train, write_run

from diffsasrec.counters.popular import Popular
from diffsasrec.files.storage import Storage
from diffsasrec.model.checkpoint import load_checkpoint

POPULAR = Popular(np.array([0, 3]), np.random.default_rng(0).random((99, 3), np.float32))


def test_the_ranker_is_trained_and_all_else_as_without_it(tmp_path):
    weights = {}
    for ranker in (True, False):
        run = tmp_path / str(ranker)
        write_run(run)
        model = MODELS["prefix"].model_copy(update={"ranker": ranker, "dropout": 0.1})
        given = FINETUNE.settings.model_copy(update={"ranker_weight": 0.0})
        train(make_job(run, model), PRETRAIN, replace(FINETUNE, settings=given))
        trained = load_checkpoint(Storage.of(str(run)).sub(FINETUNE.output)).model
        start = load_checkpoint(Storage.of(str(run)).sub(PRETRAIN.output)).model
        weights[ranker] = trained.state_dict()
        if ranker:
            moved = [not torch.equal(start.state_dict()[n], t) for n, t in weights[True].items()]
            assert all(moved)
    for name, tensor in weights[False].items():
        assert torch.equal(weights[True][name], tensor), name


def test_shares_are_those_of_the_next_basket():
    batch = batch_of(examples(), CAUSAL, filter_seen=False, popular=POPULAR)
    assert batch.scored is not None and batch.shares_X is not None
    items = events().items.reshape(-1, 7)
    pairs = zip(batch.scored.users_X.tolist(), batch.scored.items_X.tolist(), strict=True)
    expected = [float(item == items[user, 5]) for user, item in pairs]  # a basket of one event
    assert batch.shares_X.tolist() == expected and sum(expected) > 0


def test_the_losses_of_two_ranks_add_up_and_a_rank_without_a_row_adds_nothing():
    objective = objective_of(CAUSAL, True)
    for chosen in (examples(), examples().take(np.arange(1))):
        whole = batch_of(chosen, CAUSAL, filter_seen=True, popular=POPULAR)
        loss, parts, counted = float(objective(whole, None)[2].detach()), 0.0, 0
        for rank in range(2):
            part = batch_of(
                chosen, CAUSAL, filter_seen=True, rank=rank, world_size=2, popular=POPULAR
            )
            parts += float(objective(part, None)[2].detach())
            counted += part.num_examples
        assert counted == whole.num_examples == len(chosen)
        assert np.isclose(loss, parts, rtol=1e-5) and (loss > 0 or len(chosen) == 1)


def test_the_loss_of_the_ranker_reaches_no_other_weight():
    objective = objective_of(CAUSAL, True)
    batch = batch_of(examples(), CAUSAL, filter_seen=True, popular=POPULAR)
    *_, ranking = objective(batch, None)
    ranking.backward()
    for name, parameter in objective.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("ranker."), name


def test_without_popular_items_nothing_is_ranked():
    batch = batch_of(examples(), CAUSAL, filter_seen=True, tables=TABLES)
    assert batch.shares_X is None
    assert float(objective_of(CAUSAL, True)(batch, None)[2].detach()) == 0.0
