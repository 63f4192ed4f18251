"""The loss of fine-tuning on typed events is the score that a list shows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from histories import CONFIGS, MOMENT, NOW, NUM_ITEMS, TRENDS
from similar_logs import random_similar
from typed_events import CART, PURCHASE, TYPES, VIEW, P, typed

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.config.training import ObjectiveConfig
from diffsasrec.counters.similar import Similar
from diffsasrec.decode.recommender import Recommender
from diffsasrec.event_types import EventTypes
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import event_gaps
from diffsasrec.model.objective import Objective, batch_loss
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Histories
from diffsasrec.times import DAY
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import Events, Examples, Part, query_examples

UNSEEN = EventTypes.of(
    {
        "purchase": PURCHASE.model_copy(update={"seen": False}),
        "cart": CART.model_copy(update={"seen": False}),
        "view": VIEW,
    }
)
SUFFIX = ObjectiveConfig(next_item=0.0, random_mask=0.0, suffix_mask=1.0)
Pasts = list[list[tuple[int, int]]]  # per user: item, code


def random_pasts(num: int = 8, seed: int = 3) -> tuple[Pasts, list[int]]:
    """Histories, and an item for each that is not among them."""
    rng = np.random.default_rng(seed)
    pasts = [
        [(int(rng.integers(30)), int(rng.integers(3))) for _ in range(rng.integers(1, 9))]
        for _ in range(num)
    ]
    return pasts, rng.integers(30, NUM_ITEMS, num).tolist()


def lively(attention: str, types: EventTypes = TYPES, **flags: int) -> SequenceModel:
    config = CONFIGS[attention].model_copy(update=flags)
    model = SequenceModel(config, NUM_ITEMS, seed=1, types=types).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def histories_of(pasts: Pasts, targets: list[int] | None, types: EventTypes) -> Histories:
    """Events up to now, a fifth of a day apart; a target is bought behind a view of item 0."""
    items: list[int] = []
    times: list[int] = []
    codes: list[int] = []
    lengths = []
    for row, past in enumerate(pasts):
        later = [] if targets is None else [(0, 0), (targets[row], P)]
        items += [item for item, _ in [*past, *later]]
        codes += [code for _, code in [*past, *later]]
        times += [NOW - place * DAY // 5 for place in range(len(past), 0, -1)]
        times += [NOW + place for place in range(len(later))]
        lengths.append(len(past) + len(later))
    return Histories(
        np.array(items, np.int32),
        np.array(times, np.int64),
        np.cumsum([0, *lengths]),
        typed(codes, types),
    )


def examples_of(model: SequenceModel, known: Histories) -> tuple[Events, Examples]:
    gaps = event_gaps(known.times, known.offsets)
    examples = query_examples(
        known.times,
        known.offsets,
        known.lengths(),
        query_times=np.array([NOW]),
        max_seq_len=model.config.max_seq_len,
        num_slots=1,
        types=known.types,
    )
    return Events(known.items, known.times, gaps, known.types), examples


def batch_of(
    model: SequenceModel,
    events: Events,
    examples: Examples,
    *,
    filter_seen: bool,
    similar: Similar | None = None,
    objective: ObjectiveConfig = SUFFIX,
) -> Batch:
    return make_batch(
        events,
        Part.whole(examples),
        query_times=np.array([NOW]),
        model=model.config,
        objective=objective,
        generator=torch.Generator().manual_seed(0),
        filter_seen=filter_seen,
        similar=None if similar is None else {0: similar}.__getitem__,
    )


def objective_of(model: SequenceModel, *, filter_seen: bool) -> Objective:
    trends_QVF = torch.from_numpy(TRENDS[None])
    return Objective(model, torch.ones(NUM_ITEMS).bool(), trends_QVF, filter_seen=filter_seen)


def scores_of(
    model: SequenceModel, past: Histories, *, filter_seen: bool, similar: Similar | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    recommender = Recommender(
        model,
        moment=replace(MOMENT, similar=similar),
        allowed=np.ones(NUM_ITEMS, bool),
        decoding=DecodingConfig(k=NUM_ITEMS, filter_seen=filter_seen),
    )
    return recommender.recommend(past.items, past.times, past.offsets, types=past.types)


@pytest.mark.parametrize("types", [TYPES, UNSEEN], ids=["seen", "nothing is seen"])
@pytest.mark.parametrize("num_similar", [0, 3])
@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("attention", CONFIGS)
def test_a_loss_is_the_score_of_the_purchase_in_the_list(
    attention, filter_seen, num_similar, types
):
    model = lively(attention, types, similar_items=num_similar)
    similar = random_similar(NUM_ITEMS, 5) if num_similar else None
    pasts, targets = random_pasts()
    events, examples = examples_of(model, histories_of(pasts, targets, types))
    assert len(examples) == len(pasts)
    objective = objective_of(model, filter_seen=filter_seen).eval()
    past = histories_of(pasts, None, types)
    items, scores = scores_of(model, past, filter_seen=filter_seen, similar=similar)
    for row, target in enumerate(targets):
        one = examples.take(np.array([row]))
        batch = batch_of(model, events, one, filter_seen=filter_seen, similar=similar)
        loss = float(sum(objective(batch, None)).detach())
        (score,) = scores[row][items[row] == target]
        assert loss == pytest.approx(-float(score), abs=1e-3)


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("attention", CONFIGS)
def test_a_gradient_reaches_the_embedding_of_every_type(attention, filter_seen):
    model = lively(attention).train()
    pasts, targets = random_pasts()
    events, examples = examples_of(model, histories_of(pasts, targets, TYPES))
    batch = batch_of(model, events, examples, filter_seen=filter_seen, objective=ObjectiveConfig())
    sums = objective_of(model, filter_seen=filter_seen)(batch, None)
    batch_loss(sums, batch, ObjectiveConfig()).backward()
    assert model.types is not None and model.types.weight.grad is not None
    assert model.types.weight.grad.abs().sum(1).gt(0).all()
