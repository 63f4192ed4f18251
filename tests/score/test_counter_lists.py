"""Lists by a counter: those of its table of figures, under the rules of the model's lists."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typed_events import P, V
from typed_events import typed as typed_codes

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.trace import Trace
from diffsasrec.evaluate.baselines import Popularity, Score, rank_lists
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.evaluate.decayed_baselines import DecayedAndPopular
from diffsasrec.files.storage import Storage
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.score.counter_lists import Counted, CounterLists
from diffsasrec.sequences.histories import Histories, UserItems
from diffsasrec.times import DAY

NUM_ITEMS, K, NOW = 8, 4, 100 * DAY
POPULAR = np.array([0.3, 0.0, 0.25, 0.2, 0.0, 0.15, 0.1, 0.0], np.float32)
ALL_TIME = np.array([0.1, 0.3, 0.1, 0.1, 0.2, 0.1, 0.1, 0.0], np.float32)
SIMILARITY = scipy.sparse.random(NUM_ITEMS, NUM_ITEMS, 0.5, "csr", np.float32, random_state=1)
COUNTED = Counted(POPULAR, ALL_TIME, SIMILARITY)
OWN = CounterSettings(
    name="own + popular", beside="own", decay_by="basket", decay=0.8, popularity=0.5
)
SIMILAR = replace(OWN, name="item-item + popular", beside="similar", decay_by="event")
RECENT = CounterSettings(name="recent popular", days=7.0)
ALLOWED = np.ones(NUM_ITEMS, bool)


def histories_of(logs: list[list[int]]) -> Histories:
    items = np.array([item for log in logs for item in log], np.int32)
    offsets = np.cumsum([0, *map(len, logs)]).astype(np.int64)
    place = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets))
    return Histories(items, NOW - (20 - place) * DAY, offsets)


def maker(settings: CounterSettings = OWN, **changes) -> CounterLists:
    filter_seen = changes.pop("filter_seen", False)
    similarity = SIMILARITY if settings.beside == "similar" else None
    rules = {"allowed": ALLOWED} | changes
    decoding = DecodingConfig(k=K, decode="single", filter_seen=filter_seen)
    counted = replace(COUNTED, similarity=similarity)
    return CounterLists(settings, counted, query_time=NOW, decoding=decoding, **rules)


def made(lists: CounterLists, logs: list[list[int]], **options):
    h = histories_of(logs)
    return lists.recommend(h.items, h.times, h.offsets, **options)


def score_of(settings: CounterSettings) -> Score:
    popular = Popularity(POPULAR)
    if settings.beside is None:
        return popular
    similarity = SIMILARITY if settings.beside == "similar" else None
    return DecayedAndPopular(
        popular, NOW, settings.decay_of_events, settings.popularity, similarity
    )


@pytest.mark.parametrize("counter", [OWN, SIMILAR, RECENT], ids=lambda c: c.name)
@pytest.mark.parametrize("filter_seen", [False, True])
@given(logs=st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_lists_begin_with_those_that_were_measured(counter, filter_seen, logs):
    allowed = np.arange(NUM_ITEMS) != 3
    lists, scores = made(maker(counter, allowed=allowed, filter_seen=filter_seen), logs)
    options = {"allowed": allowed, "k": K, "filter_seen": filter_seen}
    measured = rank_lists(score_of(counter), histories_of(logs), **options)
    advice = measured >= 0  # what the counter has no score for is filled up below
    assert (lists[advice] == measured[advice]).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all() and ((scores > -np.inf) == (lists >= 0)).all()
    for user, log in enumerate(logs):
        left = allowed.sum() - len(set(log) - {3}) * filter_seen
        assert (lists[user] >= 0).sum() == min(K, left)
        assert not filter_seen or not set(log) & set(lists[user].tolist())


def test_what_has_no_score_follows_in_the_order_of_all_time():
    lists, scores = made(maker(RECENT, allowed=np.isin(range(NUM_ITEMS), [0, 1, 4, 7])), [[0]])
    assert lists.tolist() == [[0, 1, 4, 7]]
    assert np.isfinite(scores).all() and (np.diff(scores) < 0).all()


def test_a_score_is_the_logarithm_of_the_share_of_all_that_may_be_recommended():
    _, scores = made(maker(allowed=np.isin(range(NUM_ITEMS), [0, 2, 3, 5])), [[2, 2, 5], [0]])
    assert np.exp(scores).sum(axis=1).tolist() == pytest.approx([1.0, 1.0])
    lists, scores = made(maker(), [[2]])
    # all of the own share, and half of the popularity, which adds up to 1
    assert lists[0, 0] == 2
    assert np.exp(scores[0, 0]) == pytest.approx((1 + 0.5 * 0.25) / 1.5, rel=1e-5)


def test_what_is_excluded_for_a_user_or_over_the_cap_is_left_out():
    excluded = UserItems(np.array([2, 0]), np.array([0, 1, 2]))
    lists, _ = made(maker(), [[2, 3], [2]], excluded=excluded)
    assert lists.tolist() == [[3, 0, 5, 6], [2, 3, 5, 6]]
    category = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    lists, _ = made(maker(cap=CategoryCap(1, category)), [[2, 3]])
    assert lists.tolist() == [[3, 5, 6, -1]]


def test_a_trace_has_the_one_pass_and_its_shares():
    trace = Trace()
    _, scores = made(maker(), [[2, 3]], trace=trace)
    (step,) = trace.steps
    assert step.kind == "pass"
    assert step.confidence_F.tolist() == pytest.approx(np.exp(scores[0]).tolist(), rel=1e-4)


@pytest.mark.parametrize("similarity", [None, SIMILARITY])
def test_what_was_counted_is_read_as_it_was_written(tmp_path: Path, similarity):
    storage, counted = Storage.of(str(tmp_path)), replace(COUNTED, similarity=similarity)
    counted.write(storage, "state/counter.safetensors")
    read = Counted.read(storage, "state/counter.safetensors")
    assert (read.popularity_V == POPULAR).all() and (read.all_time_V == ALL_TIME).all()
    assert (read.similarity is None) == (similarity is None)
    assert similarity is None or (read.similarity != similarity).nnz == 0


def test_by_another_vocabulary_the_same_items_have_the_same_numbers():
    index = np.array([3, -1, 0, 1, -1, 2, 4, -1], np.int32)
    moved = COUNTED.reindexed(index, 6)
    assert moved.popularity_V.tolist() == pytest.approx([0.25, 0.2, 0.15, 0.3, 0.1, 0.0])
    assert moved.similarity is not None
    assert moved.similarity[3, 0] == SIMILARITY[0, 2] and moved.similarity.shape == (6, 6)


def test_events_weigh_what_their_types_do_and_only_seen_items_are_left_out():
    logs = [[1, 4, 1], [3]]
    plain = histories_of(logs)
    typed = replace(plain, types=typed_codes([V, P, V, V]))
    lists = maker(OWN, filter_seen=True)
    items, _ = lists.recommend(plain.items, plain.times, plain.offsets, types=typed.types)
    assert 1 in items[0] and 4 not in items[0] and 3 in items[1]
    lists = maker(OWN)
    items, _ = lists.recommend(plain.items, plain.times, plain.offsets, types=typed.types)
    expected = rank_lists(score_of(OWN), typed, allowed=ALLOWED, k=K, filter_seen=False)
    assert (items == expected)[expected >= 0].all()
    one_type = replace(plain, types=typed_codes([P, P, P, P]))
    heavy, _ = lists.recommend(plain.items, plain.times, plain.offsets, types=one_type.types)
    assert (heavy == made(lists, logs)[0]).all()


@pytest.mark.parametrize("counter", [OWN, SIMILAR, RECENT], ids=lambda c: c.name)
def test_boosts_are_added_to_the_logarithms_of_shares(counter):
    logs = [[0, 4, 7], [5], []]
    whole = DecodingConfig(k=NUM_ITEMS, decode="single", filter_seen=False)
    boost = np.array([0, 3, 0, -2, 0, 0.5, 0, 0], np.float32)
    plain, boosted = maker(counter), maker(counter, boost=boost)
    plain.decoding = boosted.decoding = whole
    (items, scores), (boosted_items, boosted_scores) = made(plain, logs), made(boosted, logs)
    raised = np.take_along_axis(scores, items.argsort(1), 1) + boost
    expected = torch.from_numpy(raised).log_softmax(1).numpy()
    assert np.take_along_axis(boosted_scores, boosted_items.argsort(1), 1) == pytest.approx(
        expected, abs=1e-5
    )
    assert (np.diff(boosted_scores, axis=1) <= 0).all()
