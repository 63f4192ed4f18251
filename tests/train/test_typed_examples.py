"""Examples and batches of typed events: what is a target at a batch time, and what a model sees."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_examples import BIDIRECTIONAL, CAUSAL, CONFIGS, PREFIX, SUFFIX
from typed_events import TYPES, C, Log, P, V, typed_histories, typed_logs

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import event_gaps
from diffsasrec.times import DAY
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import Events, Examples, Part, query_examples, window_examples


def examples_of(log: Log, query_times: list[int], cut: int = 99, **more: Any) -> Examples:
    histories = typed_histories(log)
    num_events = [sum(time < cut for _, time, _ in history) for history in log]
    options = {"max_seq_len": 4, "num_slots": 3, "types": histories.types} | more
    return query_examples(
        histories.times,
        histories.offsets,
        np.array(num_events),
        query_times=np.array(query_times),
        **options,
    )


def batch_of(
    log: Log,
    query_times: list[int],
    *,
    model: ModelConfig = PREFIX,
    objective: ObjectiveConfig = SUFFIX,
    filter_seen: bool = False,
    examples: Examples | None = None,
) -> Batch:
    histories = typed_histories(log, unit=DAY)
    gaps = event_gaps(histories.times, histories.offsets)
    if examples is None:
        slots = 1 if model.kind == "sasrec" else 3
        examples = examples_of(log, query_times, num_slots=slots)
    return make_batch(
        Events(histories.items, histories.times, gaps, histories.types),
        Part.whole(examples),
        query_times=np.array(query_times) * DAY,
        model=model,
        objective=objective,
        generator=torch.Generator().manual_seed(0),
        filter_seen=filter_seen,
    )


LOG: Log = [[(7, 1, V), (3, 2, P), (9, 5, V), (8, 6, P), (2, 6, P), (5, 6, C), (4, 7, P)]]


@given(
    log=typed_logs,
    query_times=st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True).map(sorted),
    cut=st.integers(0, 8),
)
@settings(deadline=None)
def test_an_example_needs_a_target_event_and_has_a_slot_for_each_of_the_first(
    log, query_times, cut
):
    examples = examples_of(log, query_times, cut)
    found = zip(
        *(examples.query, examples.first, examples.boundary, examples.end - examples.boundary),
        strict=True,
    )
    expected, first = [], 0
    for history in log:
        for query, query_time in enumerate(query_times):
            past = sum(time < query_time for _, time, _ in history)
            wanted = [t for _, t, code in history if query_time <= t < cut and code == P]
            if past and wanted and past < sum(t < cut for _, t, _ in history):
                expected.append((query, first, first + past, min(len(wanted), 3)))
        first += len(history)
    assert sorted(found) == sorted(expected)


def test_slots_hold_the_next_target_events_and_the_history_all_types():
    batch = batch_of(LOG, [3])
    assert batch.history_BL.tolist() == [[7, 3]]
    width = 2
    assert (
        batch.targets_BT[:, width:].tolist()[0][: int(batch.num_slots_B[0])]
        == [8, 2, 4][: int(batch.num_slots_B[0])]
    )
    assert batch.types_BL is not None and batch.types_BL.tolist() == [[V, P]]
    assert batch.slot_types_BS is not None and set(batch.slot_types_BS.flatten().tolist()) == {P}


def test_the_next_basket_is_the_target_items_of_the_first_moment_with_any():
    batch = batch_of(LOG, [3])
    assert batch.baskets is not None
    assert batch.baskets.items_Z.tolist() == [2, 8]  # not 9, which is viewed, nor 5 in the cart


@given(log=typed_logs, query_times=st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True))
@settings(deadline=None)
def test_every_target_at_a_batch_time_is_the_next_purchase(log, query_times):
    query_times.sort()
    examples = examples_of(log, query_times, num_slots=1)
    if not len(examples):
        return
    for model in (CAUSAL, PREFIX):
        batch = batch_of(log, query_times, model=model, examples=examples)
        for row, query in enumerate(examples.query):
            user = int(np.searchsorted(typed_histories(log).offsets, examples.first[row], "right"))
            bought = [i for i, t, c in log[user - 1] if t >= query_times[query] and c == P]
            width = batch.history_BL.shape[1]
            assert int(batch.targets_BT[row, width]) == bought[0]
            if model is CAUSAL:
                last = int(batch.lengths_B[row]) - 1
                assert int(batch.next_BL[row, last]) == bought[0]


def test_windows_have_every_event_as_a_target_and_the_types_of_the_events():
    histories = typed_histories(LOG)
    windows = window_examples(histories.offsets, np.array([7]), max_seq_len=4, min_events=2)
    for model in CONFIGS:
        batch = batch_of(LOG, [3], model=model, examples=windows)
        codes = [code for _, _, code in LOG[0]]
        assert batch.types_BL is not None and batch.slot_types_BS is not None
        width = batch.history_BL.shape[1]
        place_of = {item: place for place, (item, _, _) in enumerate(LOG[0])}
        for row in range(len(windows)):
            for place in range(int(batch.lengths_B[row])):
                event = place_of[int(batch.targets_BT[row, place])]
                assert int(batch.types_BL[row, place]) == codes[event]
                if batch.scored_BL[row, place]:
                    assert int(batch.next_BL[row, place]) == LOG[0][event + 1][0]
            for slot in range(int(batch.num_slots_B[row])):
                event = place_of[int(batch.targets_BT[row, width + slot])]
                assert int(batch.slot_types_BS[row, slot]) == codes[event]


@pytest.mark.parametrize("model", [PREFIX, BIDIRECTIONAL, CAUSAL])
def test_only_seen_items_are_blocked_and_only_others_are_scored(model):
    batch = batch_of(LOG, [3], model=model, filter_seen=True)
    assert batch.pairs is not None and batch.scored is not None
    assert (batch.pairs.items_X.tolist(), batch.scored.items_X.tolist()) == ([3], [7])
    free = batch_of(LOG, [3], model=model, filter_seen=False)
    assert free.scored is free.pairs and free.pairs is not None
    assert free.pairs.items_X.tolist() == [3, 7]


def test_a_log_without_types_has_none_in_its_batches():
    histories = typed_histories(LOG, unit=DAY)
    gaps = event_gaps(histories.times, histories.offsets)
    events = Events(histories.items, histories.times, gaps)
    assert events.targets.places.tolist() == list(range(7))
    assert TYPES.targets == (False, False, True)
    examples = examples_of(LOG, [3], types=None)
    assert (examples.end - examples.boundary).tolist() == [3]
