"""How slots were filled: asked for, it changes no list."""

import numpy as np
import pytest
from histories import MODES, MOMENT, NUM_ITEMS, K, flat, lively_model, random_histories, times_of

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.recommender import Recommender
from diffsasrec.decode.trace import Trace

HISTORIES = random_histories(4, 9, seed=3)


def traced(attention: str, decoding: DecodingConfig):
    """The lists with and without a trace, and the trace."""
    recommender = Recommender(
        lively_model(attention), moment=MOMENT, allowed=np.ones(NUM_ITEMS, bool), decoding=decoding
    )
    items, offsets = flat(HISTORIES)
    times = np.array([time for history in HISTORIES for time in times_of(history)], np.int64)
    trace = Trace()
    plain = recommender.recommend(items, times, offsets)
    return plain, recommender.recommend(items, times, offsets, trace=trace), trace


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize(("attention", "decode"), MODES)
def test_the_steps_fill_every_slot_once_with_the_items_of_the_list(attention, decode, filter_seen):
    decoding = DecodingConfig(k=K, decode=decode, steps=3, filter_seen=filter_seen)
    plain, (items, scores), trace = traced(attention, decoding)
    assert np.array_equal(plain[0], items) and np.array_equal(plain[1], scores)
    for user in range(len(HISTORIES)):
        slots, chosen = [], []
        for step in trace.steps:
            mine = step.users_F == user
            slots += step.slots_F[mine].tolist()
            chosen += step.items_F[mine].tolist()
        assert sorted(slots) == list(range(K)) and sorted(chosen) == sorted(items[user])
    confidences = np.concatenate([step.confidence_F.numpy() for step in trace.steps])
    assert (confidences > 0).all() and (confidences <= 1 + 1e-6).all()


def test_the_single_pass_is_as_sure_as_the_scores_say():
    _, (_, scores), trace = traced("prefix", DecodingConfig(k=K))
    (step,) = trace.steps
    assert step.kind == "pass"
    assert step.confidence_F.numpy() == pytest.approx(np.exp(scores).ravel(), abs=1e-5)


def test_the_first_of_one_after_another_is_as_sure_as_its_score():
    _, (items, scores), trace = traced("causal", DecodingConfig(k=K, decode="autoregressive"))
    assert [step.kind for step in trace.steps] == ["next"] * K
    first = trace.steps[0]
    for user, item, confidence in zip(
        first.users_F.tolist(), first.items_F.tolist(), first.confidence_F.tolist(), strict=True
    ):
        (place,) = np.flatnonzero(items[user] == item)
        assert confidence == pytest.approx(np.exp(scores[user, place]), abs=1e-5)


def test_exploring_has_the_last_step_and_the_schedule_the_others():
    decoding = DecodingConfig(k=K, decode="multi", steps=3, explore_items=1)
    _, _, trace = traced("prefix", decoding)
    assert [step.kind for step in trace.steps] == ["commit", "commit", "explore"]
    assert [len(step.slots_F) for step in trace.steps] == [2 * 4, 2 * 4, 4]


def test_a_shortlist_gives_the_same_steps_as_the_whole_catalogue():
    found = []
    for shortlist in (0, 2):
        decoding = DecodingConfig(k=K, decode="multi", steps=3, shortlist=shortlist)
        found.append(traced("prefix", decoding)[2].steps)
    for whole, short in zip(*found, strict=True):
        assert whole.items_F.tolist() == short.items_F.tolist()
        assert whole.confidence_F.numpy() == pytest.approx(short.confidence_F.numpy(), abs=1e-5)
