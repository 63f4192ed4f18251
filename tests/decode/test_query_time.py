"""What is known as of the query time, and what of it reaches the lists."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fine_tuning_losses import losses_and_scores
from histories import (
    CONFIGS,
    MOMENT,
    NOW,
    NUM_ITEMS,
    OFF,
    TRENDS,
    K,
    all_modes,
    lists_of,
    lively_model,
    random_histories,
    times_of,
)

from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.decode.moment import Moment
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.times import DAY


@all_modes
@pytest.mark.parametrize("filter_seen", [True, False])
def test_permuted_users_have_permuted_lists(attention, decode, filter_seen):
    model, histories = lively_model(attention), random_histories(20, 12)
    order = np.random.default_rng(1).permutation(20)
    decoding = DecodingConfig(k=K, decode=decode, filter_seen=filter_seen, batch_size=20)
    items, scores = lists_of(model, histories, decoding)
    other_items, other_scores = lists_of(model, [histories[user] for user in order], decoding)
    assert np.array_equal(items[order], other_items)
    assert np.allclose(scores[order], other_scores, atol=1e-5)


def copying_model(attention: str) -> SequenceModel:
    """Whatever a user had before is far more probable than all else."""
    model = lively_model(attention)
    assert model.copy_score is not None
    with torch.no_grad():
        model.copy_score.out.weight.zero_()
        model.copy_score.out.bias.fill_(200.0)
    return model


@all_modes
def test_an_item_older_than_the_models_window_may_still_be_copied(attention, decode):
    histories = [[30, 31, 1, 2, 3, 1, 2, 3], [39, 0, 0, 0, 0, 0, 0]]  # six events are read
    items, _ = lists_of(
        copying_model(attention), histories, DecodingConfig(k=K, decode=decode, filter_seen=False)
    )
    assert sorted(items[0].tolist()) == [1, 2, 3, 30, 31]
    assert sorted(items[1, :2].tolist()) == [0, 39]


@all_modes
def test_filtered_lists_know_nothing_of_a_copy_score(attention, decode):
    histories = random_histories(20, 12)
    plain, copying = (
        lists_of(make(attention), histories, DecodingConfig(k=K, decode=decode))
        for make in (lively_model, copying_model)
    )
    assert np.array_equal(plain[0], copying[0]) and np.array_equal(plain[1], copying[1])


@all_modes
def test_trends_change_the_lists_of_a_model_that_reads_them_and_of_no_other(attention, decode):
    histories, other = random_histories(20, 12), Moment(NOW, TRENDS[::-1].copy())
    model = lively_model(attention, copy_score=False)
    lists = [
        lists_of(model, histories, DecodingConfig(k=K, decode=decode), moment=m)[0]
        for m in (MOMENT, other)
    ]
    assert (lists[0] != lists[1]).any(1).all()
    blind = lively_model(attention, copy_score=False, trends=False)
    decoding = DecodingConfig(k=K, decode=decode, explore_items=0)
    lists = [lists_of(blind, histories, decoding, moment=m)[0] for m in (MOMENT, other)]
    assert np.array_equal(lists[0], lists[1])


def test_explored_items_are_shown_less_the_lower_the_ratio():
    model, histories = lively_model("prefix", **OFF), random_histories(20, 12)
    single = lists_of(model, histories, DecodingConfig(k=K))[0]
    shown = np.bincount(single.ravel(), minlength=NUM_ITEMS).astype(np.float32)
    means, plain = (
        [],
        lists_of(model, histories, DecodingConfig(k=K, decode="multi", explore_items=0))[0],
    )
    for ratio in (1.0, 0.6, 0.01):
        decoding = DecodingConfig(k=K, decode="multi", explore_items=2, explore_ratio=ratio)
        lists = lists_of(model, histories, decoding, moment=replace(MOMENT, shown=shown))[0]
        shared = [len(set(row) & set(other)) for row, other in zip(lists, plain, strict=True)]
        assert min(shared) >= K - 3  # the sure ones of fewer steps may differ by one
        means.append(shown[lists].mean())
    assert means[0] > means[1] > means[2]


def test_lookahead_leads_from_the_list_of_the_single_step_to_that_of_the_slots():
    model, histories = lively_model("prefix", **OFF), random_histories(20, 12)
    single = lists_of(model, histories, DecodingConfig(k=K))[0]
    lists = [
        lists_of(
            model,
            histories,
            DecodingConfig(k=K, decode="multi", explore_items=0, lookahead=lookahead),
        )[0]
        for lookahead in (0.0, 0.5, 1.0)
    ]
    assert np.array_equal(single, lists[0])
    assert (lists[0] != lists[1]).any() and (lists[1] != lists[2]).any()


@pytest.mark.parametrize("wrong", [{"k": 1}, {"steps": 1}, {"explore_items": K}])
def test_exploring_must_leave_a_step_and_a_place(wrong):
    with pytest.raises(ValueError, match=r"score\.explore_items="):
        DecodingConfig(**{"k": K, "decode": "multi", **wrong})


@pytest.mark.parametrize("part", ["time_inputs", "copy_score"])
@all_modes
def test_times_matter_to_a_model_that_reads_them_and_to_no_other(attention, decode, part):
    histories = random_histories(20, 12)
    decoding = DecodingConfig(k=K, decode=decode, filter_seen=False, explore_items=0)
    slower = [[NOW - 3 * (NOW - time) for time in times_of(history)] for history in histories]
    for flags, differ in (({part: True}, True), ({}, False)):
        model = lively_model(attention, **(OFF | flags))
        one, other = (lists_of(model, histories, decoding, times=t) for t in (None, slower))
        assert np.array_equal(one[1], other[1]) != differ
    later = Moment(NOW + 100 * DAY, TRENDS)
    model = lively_model(attention, **(OFF | {part: True}))
    scores = [lists_of(model, histories, decoding, moment=m)[1] for m in (MOMENT, later)]
    assert not np.allclose(scores[0], scores[1], atol=1e-4)


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("off", ["nothing", *OFF])
@pytest.mark.parametrize("attention", CONFIGS)
def test_fine_tuning_minimises_minus_the_score_that_a_list_shows(attention, off, filter_seen):
    flags = {} if off == "nothing" else {off: False}
    histories = [[item for item in h if item != 39] or [1] for h in random_histories(12, 12)]
    targets = [39 if filter_seen or n % 2 else history[0] for n, history in enumerate(histories)]
    losses, scores = losses_and_scores(
        lively_model(attention, **flags), histories, targets, filter_seen=filter_seen
    )
    assert [-score for score in scores] == pytest.approx(losses, abs=1e-3)


@all_modes
def test_a_model_of_half_precision_makes_lists_with_counters(attention, decode):
    model = lively_model(attention).to(torch.bfloat16)
    items, scores = lists_of(
        model, random_histories(9, 9), DecodingConfig(k=K, decode=decode, filter_seen=False)
    )
    assert all(len(set(row)) == K and min(row) >= 0 for row in items.tolist())
    assert np.isfinite(scores).all()
