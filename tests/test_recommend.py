"""Legend: B users, L history length, J items chosen so far, K list length, V items."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from diffsasrec.config import ModelConfig
from diffsasrec.model import SequenceModel
from diffsasrec.recommend import Decoding, newest, recommend, take_users

NUM_ITEMS, K = 40, 5
SIZES = {
    "hidden_size": 16,
    "num_blocks": 1,
    "num_heads": 2,
    "dropout": 0.0,
    "max_seq_len": 6,
    "num_slots": NUM_ITEMS,
}
CONFIGS = {
    "causal": ModelConfig(kind="sasrec", attention="causal", **SIZES),
    "prefix": ModelConfig(kind="diffusion", attention="prefix", **SIZES),
    "bidirectional": ModelConfig(kind="diffusion", attention="bidirectional", **SIZES),
}
MODES = [  # attention and how it is decoded
    ("causal", "single"),
    ("causal", "autoregressive"),
    *((a, d) for a in ("prefix", "bidirectional") for d in ("single", "multi", "autoregressive")),
]
all_modes = pytest.mark.parametrize(("attention", "decode"), MODES)

Histories = list[list[int]]


def lively_model(attention: str) -> SequenceModel:
    """Random weights that make unlike lists of unlike histories."""
    model = SequenceModel(CONFIGS[attention], NUM_ITEMS, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def random_histories(num: int, longest: int, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num)
    return [rng.integers(NUM_ITEMS, size=length).tolist() for length in lengths]


def flat(histories: Histories) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    lengths = [len(history) for history in histories]
    items = [item for history in histories for item in history]
    return np.array(items, np.int32), np.cumsum([0, *lengths])


def lists_of(
    model: SequenceModel, histories: Histories, decoding: Decoding, denied: tuple[int, ...] = ()
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    allowed = np.ones(NUM_ITEMS, bool)
    allowed[list(denied)] = False
    return recommend(model, *flat(histories), allowed=allowed, decoding=decoding)


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
    items, offsets = take_users(*flat([[1, 2], [], [3], [4, 5, 6]]), np.array([3, 1, 0]))
    assert items.tolist() == [4, 5, 6, 1, 2] and offsets.tolist() == [0, 3, 3, 5]


def test_no_users_have_no_lists():
    items, scores = lists_of(lively_model("prefix"), [], Decoding(K))
    assert items.shape == scores.shape == (0, K)


@all_modes
def test_a_users_list_does_not_depend_on_its_batch_neighbours(attention, decode):
    model, histories = lively_model(attention), random_histories(30, 12)
    decoding = Decoding(K, decode)
    items, scores = lists_of(model, histories, decoding)
    alone = [lists_of(model, [history], decoding) for history in histories]
    assert np.allclose(scores, np.concatenate([s for _, s in alone]), atol=1e-4)
    differ = (items != np.concatenate([i for i, _ in alone])).any(1)
    near_ties = np.abs(np.diff(scores, axis=1)).min(1) < 1e-4
    assert not (differ & ~near_ties).any() and differ.sum() <= 1


@all_modes
def test_the_batch_size_changes_no_list_but_near_ties(attention, decode):
    model, histories = lively_model(attention), random_histories(60, 12, seed=3)
    items, scores = lists_of(model, histories, Decoding(K, decode, batch_size=60))
    for batch_size in (1, 7, 59):
        decoding = Decoding(K, decode, batch_size=batch_size)
        other_items, other_scores = lists_of(model, histories, decoding)
        assert np.allclose(scores, other_scores, atol=1e-4)
        differ = (items != other_items).any(1)
        near_ties = np.abs(np.diff(scores, axis=1)).min(1) < 1e-4
        assert not (differ & ~near_ties).any() and differ.sum() <= 1


@all_modes
def test_the_same_call_gives_the_same_bytes(attention, decode):
    model, histories = lively_model(attention), random_histories(20, 12)
    one, two = (lists_of(model, histories, Decoding(K, decode, batch_size=7)) for _ in range(2))
    assert one[0].tobytes() == two[0].tobytes() and one[1].tobytes() == two[1].tobytes()


@all_modes
def test_seen_and_denied_items_never_come_out(attention, decode):
    histories = random_histories(20, 30)  # longer than the six events that the model sees
    items, _ = lists_of(lively_model(attention), histories, Decoding(K, decode), denied=(0, 1, 2))
    for history, user_items in zip(histories, items.tolist(), strict=True):
        assert len(set(user_items)) == K and min(user_items) >= 3
        assert not set(user_items) & set(history)


@all_modes
def test_an_item_seen_before_the_models_window_is_filtered_and_changes_nothing_else(
    attention, decode
):
    model, window = lively_model(attention), [3, 1, 4, 1, 5, 9]
    before, _ = lists_of(model, [window], Decoding(K, decode))
    best = int(before[0, 0])
    after, _ = lists_of(model, [[best, *window]], Decoding(K, decode))
    unfiltered, _ = lists_of(model, [[best, *window]], Decoding(K, decode, filter_seen=False))
    assert best not in after[0] and len(set(after[0].tolist())) == K
    free, _ = lists_of(model, [window], Decoding(K, decode, filter_seen=False))
    assert np.array_equal(unfiltered, free)


@all_modes
def test_a_list_ends_where_no_item_is_left(attention, decode):
    everything = list(range(NUM_ITEMS))
    histories = [everything, everything[2:], everything[:30], [7]]
    items, scores = lists_of(lively_model(attention), histories, Decoding(K, decode))
    assert (items >= 0).sum(1).tolist() == [0, 2, K, K]
    assert set(items[1, :2].tolist()) == {0, 1} and set(items[1, 2:].tolist()) == {-1}
    assert np.array_equal(np.isfinite(scores), items >= 0)


@all_modes
@pytest.mark.parametrize("filter_seen", [True, False])
def test_the_probabilities_of_all_allowed_items_add_up_to_one(attention, decode, filter_seen):
    decoding = Decoding(NUM_ITEMS, decode, filter_seen=filter_seen)
    histories = random_histories(5, 12)
    items, scores = lists_of(lively_model(attention), histories, decoding, denied=(3, 4))
    assert np.allclose(np.exp(scores.astype(np.float64)).sum(1), 1, atol=1e-5)
    blocked = [{3, 4} | (set(history) if filter_seen else set()) for history in histories]
    assert (items >= 0).sum(1).tolist() == [NUM_ITEMS - len(user) for user in blocked]


@all_modes
def test_a_list_is_ordered_by_next_item_probability(attention, decode):
    _, scores = lists_of(lively_model(attention), random_histories(20, 12), Decoding(K, decode))
    assert (np.diff(scores, axis=1) <= 0).all()


@all_modes
def test_items_with_equal_scores_are_ordered_by_their_index(attention, decode):
    model = lively_model(attention)
    torch.nn.init.zeros_(model.items.weight)
    items, _ = lists_of(model, [[7, 1], [3], [0, 2, 5]], Decoding(K, decode))
    assert items.tolist() == [[0, 2, 3, 4, 5], [0, 1, 2, 4, 5], [1, 3, 4, 6, 7]]


@pytest.mark.parametrize("decode", ["multi", "autoregressive"])
def test_the_order_of_decoding_has_the_same_items_and_scores(decode):
    model, histories = lively_model("prefix"), random_histories(20, 12)
    ranked, ranked_scores = lists_of(model, histories, Decoding(K, decode))
    decoded, decoded_scores = lists_of(model, histories, Decoding(K, decode, rank="slot"))
    assert np.array_equal(np.sort(ranked), np.sort(decoded)) and (ranked != decoded).any()
    assert np.array_equal(np.sort(ranked_scores), np.sort(decoded_scores))


@pytest.mark.parametrize("attention", ["prefix", "bidirectional"])
def test_a_list_of_one_is_the_same_in_every_mode(attention):
    model, histories = lively_model(attention), random_histories(20, 12)
    single, multi, autoregressive = (
        lists_of(model, histories, Decoding(1, decode))
        for decode in ("single", "multi", "autoregressive")
    )
    for other in (multi, autoregressive):
        assert np.array_equal(single[0], other[0])
        assert np.allclose(single[1], other[1], atol=1e-5)


@torch.inference_mode()
def slow_logprobs(
    model: SequenceModel, history: list[int], chosen: list[int], blocked: set[int]
) -> torch.Tensor:
    """Log-probabilities [V] of the item behind the chosen ones, for one user, unpadded."""
    if model.config.kind == "sasrec":
        window = torch.tensor([(history + chosen)[-6:]])
        states_BLD = model.encode(window, torch.tensor([window.shape[1]])).states_BLD
        assert states_BLD is not None
        state_D = states_BLD[0, -1]
    else:
        window = torch.tensor([history[-6:]])
        encoded = model.encode(window, torch.tensor([window.shape[1]]))
        state_D = model.denoise(encoded, torch.tensor([[*chosen, -1]]))[1][0, -1]
    logits_V = model.item_weight @ state_D
    logits_V[sorted(blocked)] = -torch.inf
    return logits_V.log_softmax(0)


@pytest.mark.parametrize("attention", CONFIGS)
def test_single_equals_a_slow_loop(attention):
    model, histories = lively_model(attention), random_histories(15, 12)
    items, scores = lists_of(model, histories, Decoding(K), denied=(8,))
    for user, history in enumerate(histories):
        logprobs = slow_logprobs(model, history, [], {8, *history})
        expected = logprobs.sort(descending=True, stable=True)
        assert items[user].tolist() == expected.indices[:K].tolist()
        assert np.allclose(scores[user], expected.values[:K], atol=1e-4)


@pytest.mark.parametrize("attention", CONFIGS)
def test_autoregressive_equals_a_slow_loop(attention):
    model, histories = lively_model(attention), random_histories(15, 12)
    decoding = Decoding(K, "autoregressive", rank="slot")
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
    items, scores = lists_of(lively_model("prefix"), [[], [1], []], Decoding(K, "multi"))
    assert items[0].tolist() == items[2].tolist() and np.isfinite(scores).all()


def test_multi_step_decoding_in_one_step_fills_every_list():
    decoding = replace(Decoding(K, "multi"), steps=1)
    items, _ = lists_of(lively_model("prefix"), random_histories(20, 12), decoding)
    assert all(len(set(row)) == K and min(row) >= 0 for row in items.tolist())
