"""Legend: B users, L history length, J items chosen so far, K list length, V items."""

import numpy as np
import pytest
import torch
from histories import (
    CONFIGS,
    NOW,
    NUM_ITEMS,
    OFF,
    TRENDS,
    K,
    all_modes,
    flat,
    lists_of,
    lively_model,
    random_histories,
    times_of,
)

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.counters.pairs import Pairing, scored_pairs
from diffsasrec.decode.encoded_histories import newest
from diffsasrec.decode.moment import Moment
from diffsasrec.errors import ConfigError
from diffsasrec.model.features import end_ages, event_gaps, user_features
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.sequences.histories import Histories, events_of, stretches
from diffsasrec.times import DAY


@pytest.mark.parametrize(
    ("attention", "decoding", "word"),
    [
        ("causal", DecodingConfig(k=K, decode="multi"), "slots"),
        (
            "prefix",
            DecodingConfig(k=NUM_ITEMS + 1, decode="multi"),
            f"num_slots >= {NUM_ITEMS + 1}",
        ),
        (
            "bidirectional",
            DecodingConfig(k=NUM_ITEMS + 1, decode="autoregressive"),
            f"num_slots >= {NUM_ITEMS + 1}",
        ),
    ],
)
def test_lists_that_need_more_slots_than_the_model_has_are_refused(attention, decoding, word):
    with pytest.raises(ConfigError, match=word):
        lists_of(lively_model(attention), [[1]], decoding)


def test_the_newest_events_are_kept_and_padded_on_the_right():
    items_BL, lengths_B = newest(*flat([[1, 2, 3, 4], [5], [6, 7]]), max_len=3)
    assert items_BL.tolist() == [[2, 3, 4], [5, 0, 0], [6, 7, 0]]
    assert lengths_B.tolist() == [3, 1, 2]


def test_an_empty_history_has_length_0():
    items_BL, lengths_B = newest(*flat([[], [5], []]), max_len=3)
    assert items_BL.tolist() == [[0], [5], [0]] and lengths_B.tolist() == [0, 1, 0]
    items_BL, lengths_B = newest(*flat([[], []]), max_len=3)
    assert items_BL.tolist() == [[0], [0]] and lengths_B.tolist() == [0, 0]


def test_users_are_taken_in_the_order_given():
    items, offsets = flat([[1, 2], [], [3], [4, 5, 6]])
    source, bounds = events_of(offsets, np.array([3, 1, 0]))
    assert items[source].tolist() == [4, 5, 6, 1, 2] and bounds.tolist() == [0, 3, 3, 5]


def test_stretches_lie_one_after_another_and_may_overlap_or_be_empty():
    source, bounds = stretches(np.array([4, 9, 3]), np.array([6, 9, 7]))
    assert source.tolist() == [4, 5, 3, 4, 5, 6] and bounds.tolist() == [0, 2, 2, 6]
    source, bounds = stretches(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert source.tolist() == [] and bounds.tolist() == [0]


def test_the_age_of_a_history_is_that_of_its_newest_event_and_0_without_any():
    times = np.array([1 * DAY, 3 * DAY, 7 * DAY])
    ages = end_ages(times, np.array([0, 2, 2, 3]), np.array([4, 5, 8]) * DAY)
    assert ages[0] == ages[2] > 0 and ages[1] == 0  # a day both


def test_no_users_have_no_lists():
    items, scores = lists_of(lively_model("prefix"), [], DecodingConfig(k=K))
    assert items.shape == scores.shape == (0, K)


@all_modes
@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_users_list_does_not_depend_on_its_batch_neighbours(attention, decode, filter_seen):
    model, histories = lively_model(attention), random_histories(30, 12)
    decoding = DecodingConfig(k=K, decode=decode, filter_seen=filter_seen)
    items, scores = lists_of(model, histories, decoding)
    alone = [lists_of(model, [history], decoding) for history in histories]
    assert np.allclose(scores, np.concatenate([s for _, s in alone]), atol=1e-4)
    differ = (items != np.concatenate([i for i, _ in alone])).any(1)
    near_ties = np.abs(np.diff(scores, axis=1)).min(1) < 1e-4
    assert not (differ & ~near_ties).any() and differ.sum() <= 1


@all_modes
def test_the_batch_size_changes_no_list_but_near_ties(attention, decode):
    model, histories = lively_model(attention), random_histories(60, 12, seed=3)
    items, scores = lists_of(model, histories, DecodingConfig(k=K, decode=decode, batch_size=60))
    for batch_size in (1, 7, 59):
        decoding = DecodingConfig(k=K, decode=decode, batch_size=batch_size)
        other_items, other_scores = lists_of(model, histories, decoding)
        assert np.allclose(scores, other_scores, atol=1e-4)
        differ = (items != other_items).any(1)
        near_ties = np.abs(np.diff(scores, axis=1)).min(1) < 1e-4
        assert not (differ & ~near_ties).any() and differ.sum() <= 1


@all_modes
def test_the_same_call_gives_the_same_bytes(attention, decode):
    model, histories = lively_model(attention), random_histories(20, 12)
    one, two = (
        lists_of(model, histories, DecodingConfig(k=K, decode=decode, batch_size=7))
        for _ in range(2)
    )
    assert one[0].tobytes() == two[0].tobytes() and one[1].tobytes() == two[1].tobytes()


@all_modes
def test_seen_and_denied_items_never_come_out(attention, decode):
    histories = random_histories(20, 30)  # longer than the six events that the model sees
    items, _ = lists_of(
        lively_model(attention), histories, DecodingConfig(k=K, decode=decode), denied=(0, 1, 2)
    )
    for history, user_items in zip(histories, items.tolist(), strict=True):
        assert len(set(user_items)) == K and min(user_items) >= 3
        assert not set(user_items) & set(history)


@all_modes
def test_an_item_seen_before_the_models_window_is_filtered_and_changes_nothing_else(
    attention, decode
):
    # counters know of it: its count, and how long the history is
    model, window = lively_model(attention, **OFF), [3, 1, 4, 1, 5, 9]
    plain = DecodingConfig(k=K, decode=decode, explore_items=0)
    before, _ = lists_of(model, [window], plain)
    best = int(before[0, 0])
    after, _ = lists_of(model, [[best, *window]], plain)
    unfiltering = plain.model_copy(update={"filter_seen": False})
    unfiltered, _ = lists_of(model, [[best, *window]], unfiltering)
    assert best not in after[0] and len(set(after[0].tolist())) == K
    free, _ = lists_of(model, [window], unfiltering)
    assert np.array_equal(unfiltered, free)


@all_modes
def test_a_list_ends_where_no_item_is_left(attention, decode):
    everything = list(range(NUM_ITEMS))
    histories = [everything, everything[2:], everything[:30], [7]]
    items, scores = lists_of(lively_model(attention), histories, DecodingConfig(k=K, decode=decode))
    assert (items >= 0).sum(1).tolist() == [0, 2, K, K]
    assert set(items[1, :2].tolist()) == {0, 1} and set(items[1, 2:].tolist()) == {-1}
    assert np.array_equal(np.isfinite(scores), items >= 0)


@all_modes
@pytest.mark.parametrize("filter_seen", [True, False])
def test_the_probabilities_of_all_allowed_items_add_up_to_one(attention, decode, filter_seen):
    decoding = DecodingConfig(k=NUM_ITEMS, decode=decode, filter_seen=filter_seen)
    histories = random_histories(5, 12)
    items, scores = lists_of(lively_model(attention), histories, decoding, denied=(3, 4))
    assert np.allclose(np.exp(scores.astype(np.float64)).sum(1), 1, atol=1e-5)
    blocked = [{3, 4} | (set(history) if filter_seen else set()) for history in histories]
    assert (items >= 0).sum(1).tolist() == [NUM_ITEMS - len(user) for user in blocked]


@all_modes
def test_a_list_is_ordered_by_next_item_probability(attention, decode):
    _, scores = lists_of(
        lively_model(attention), random_histories(20, 12), DecodingConfig(k=K, decode=decode)
    )
    assert (np.diff(scores, axis=1) <= 0).all()


@all_modes
def test_items_with_equal_scores_are_ordered_by_their_index(attention, decode):
    model = lively_model(attention)
    torch.nn.init.zeros_(model.items.weight)
    histories, no_trends = [[7, 1], [3], [0, 2, 5]], Moment(NOW, None)
    decoding = DecodingConfig(k=K, decode=decode, explore_items=0)
    items, _ = lists_of(model, histories, decoding, moment=no_trends)
    assert items.tolist() == [[0, 2, 3, 4, 5], [0, 1, 2, 4, 5], [1, 3, 4, 6, 7]]


@pytest.mark.parametrize("decode", ["multi", "autoregressive"])
def test_the_order_of_decoding_has_the_same_items_and_scores(decode):
    model, histories = lively_model("prefix"), random_histories(20, 12)
    ranked, ranked_scores = lists_of(model, histories, DecodingConfig(k=K, decode=decode))
    decoded, decoded_scores = lists_of(
        model, histories, DecodingConfig(k=K, decode=decode, rank="slot")
    )
    assert np.array_equal(np.sort(ranked), np.sort(decoded)) and (ranked != decoded).any()
    assert np.array_equal(np.sort(ranked_scores), np.sort(decoded_scores))


@pytest.mark.parametrize("attention", ["prefix", "bidirectional"])
def test_a_list_of_one_is_the_same_in_every_mode(attention):
    model, histories = lively_model(attention), random_histories(20, 12)
    single, multi, autoregressive = (
        lists_of(model, histories, DecodingConfig(k=1, decode=decode, explore_items=0))
        for decode in ("single", "multi", "autoregressive")
    )
    for other in (multi, autoregressive):
        assert np.array_equal(single[0], other[0])
        assert np.allclose(single[1], other[1], atol=1e-5)


@torch.inference_mode()
def slow_logprobs(
    model: SequenceModel, history: list[int], chosen: list[int], blocked: set[int]
) -> torch.Tensor:
    """Log-probabilities [V] of the item behind the chosen ones, for one user, unpadded.

    Without a filter, when nothing is blocked, the user's own items have their copy score.
    """
    trends = torch.from_numpy(TRENDS)
    user = (np.array(times_of(history), np.int64), np.array([0, len(history)]))
    gaps = event_gaps(*user).tolist()
    age = torch.from_numpy(end_ages(*user, np.array([NOW])))
    users = torch.from_numpy(user_features(np.array(history), *user, np.array([NOW])))
    if model.config.kind == "sasrec":
        window = torch.tensor([(history + chosen)[-6:]])
        known_gaps = torch.tensor([(gaps + [0] * len(chosen))[-6:]])
        encoded = model.encode(window, torch.tensor([window.shape[1]]), known_gaps)
        assert encoded.states_BLD is not None
        query_W = model.queries(encoded.states_BLD[0, -1:], age, users_RC=users)[0]
    else:
        window, known_gaps = torch.tensor([history[-6:]]), torch.tensor([gaps[-6:]])
        encoded = model.encode(window, torch.tensor([window.shape[1]]), known_gaps)
        slots = model.denoise(encoded, torch.tensor([[*chosen, -1]]), ages_B=age)[1]
        query_W = model.queries(slots[0, -1:], users_RC=users)[0]
    logits_V = model.item_vectors(trends) @ query_W
    if not blocked:
        own_history = Histories(np.array(history, np.int32), *user)
        pairing = Pairing.of(model.config, filter_seen=False)
        pairs = scored_pairs(own_history, np.array([NOW]), None, pairing)
        assert pairs is not None
        own = model.own_items(pairs, trends[pairs.items_X])
        extras = own.of_rows(query_W[None], torch.tensor([0]))
        for item, score in zip(extras.items_Y, extras.scores_Y, strict=True):
            logits_V[item] += score
    logits_V[sorted(blocked)] = -torch.inf
    return logits_V.log_softmax(0)


@pytest.mark.parametrize("attention", CONFIGS)
def test_single_equals_a_slow_loop(attention):
    model, histories = lively_model(attention), random_histories(15, 12)
    items, scores = lists_of(model, histories, DecodingConfig(k=K), denied=(8,))
    for user, history in enumerate(histories):
        logprobs = slow_logprobs(model, history, [], {8, *history})
        expected = logprobs.sort(descending=True, stable=True)
        assert items[user].tolist() == expected.indices[:K].tolist()
        assert np.allclose(scores[user], expected.values[:K], atol=1e-4)


@pytest.mark.parametrize("attention", CONFIGS)
def test_a_single_list_that_may_repeat_equals_a_slow_loop(attention):
    model, histories = lively_model(attention), random_histories(15, 12)
    items, scores = lists_of(model, histories, DecodingConfig(k=K, filter_seen=False))
    for user, history in enumerate(histories):
        expected = slow_logprobs(model, history, [], set()).sort(descending=True, stable=True)
        assert items[user].tolist() == expected.indices[:K].tolist()
        assert np.allclose(scores[user], expected.values[:K], atol=1e-4)


@pytest.mark.parametrize("attention", CONFIGS)
def test_autoregressive_equals_a_slow_loop(attention):
    model, histories = lively_model(attention), random_histories(15, 12)
    decoding = DecodingConfig(k=K, decode="autoregressive", rank="slot")
    items, scores = lists_of(model, histories, decoding, denied=(8,))
    for user, history in enumerate(histories):
        chosen: list[int] = []
        for _ in range(K):
            blocked = {8, *history, *chosen}
            chosen.append(int(slow_logprobs(model, history, chosen, blocked).argmax()))
        first = slow_logprobs(model, history, [], {8, *history})
        assert items[user].tolist() == chosen
        assert np.allclose(scores[user], first[chosen], atol=1e-4)


def test_an_unseen_history_gets_a_list_from_the_slots_alone():
    items, scores = lists_of(
        lively_model("prefix"), [[], [1], []], DecodingConfig(k=K, decode="multi")
    )
    assert items[0].tolist() == items[2].tolist() and np.isfinite(scores).all()


def test_multi_step_decoding_in_one_step_fills_every_list():
    decoding = DecodingConfig(k=K, decode="multi", steps=1, explore_items=0)
    items, _ = lists_of(lively_model("prefix"), random_histories(20, 12), decoding)
    assert all(len(set(row)) == K and min(row) >= 0 for row in items.tolist())
