"""Legend: B examples, L history length, S slots, T both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_examples import (
    BIDIRECTIONAL,
    CAUSAL,
    CONFIGS,
    PREFIX,
    RANDOM,
    SUFFIX,
    make,
    offsets_of,
    queries,
    stretches,
    windows,
)

from diffsasrec.config.training import ModelConfig, ObjectiveConfig
from diffsasrec.model.batch import Batch
from diffsasrec.model.features import event_gaps, gap_buckets
from diffsasrec.times import DAY
from diffsasrec.train.batches import make_batch
from diffsasrec.train.examples import (
    DRAWN,
    Events,
    Examples,
    Part,
    query_examples,
)


def rows_of(batch: Batch) -> list[tuple[int, int, list[float]]]:
    """(row, item, features) of the pairs of a batch."""
    assert batch.pairs is not None
    columns = (batch.pairs.users_X, batch.pairs.items_X, batch.pairs.features_XC)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def baskets_of(batch: Batch) -> list[tuple[int, int]]:
    """(row, item) of the next baskets."""
    assert batch.baskets is not None
    columns = (batch.baskets.users_Z, batch.baskets.items_Z)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def pairs_together(parts: list[Batch]) -> list[tuple[int, int, list[float]]]:
    """The pairs of all ranks with the rows of the global batch."""
    world_size = len(parts)
    return sorted(
        (rank + row * world_size, item, features)
        for rank, part in enumerate(parts)
        for row, item, features in rows_of(part)
    )


def parts_of(examples: Examples, *, model: ModelConfig, world_size: int) -> list[Batch]:
    """What each rank has of a global batch."""
    return [
        make(examples, model=model, rank=rank, world_size=world_size) for rank in range(world_size)
    ]


def columns_of(part: Batch, whole: Batch) -> dict[str, list[int]]:
    """Which columns of a global batch those of a rank are, of the history, the slots, and both."""
    wide = whole.history_BL.shape[1]
    history, slots = range(part.history_BL.shape[1]), range(part.slots_BS.shape[1])
    both = [*history, *(wide + slot for slot in slots)]
    return {"L": [*history], "S": [*slots], "T": both}


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("examples", [windows([3, 7, 2, 5, 9]), queries(5)])
def test_the_rows_of_all_ranks_together_are_the_global_batch(examples, model):
    whole = make(examples, model=model)
    for world_size in (2, 3):
        parts = parts_of(examples, model=model, world_size=world_size)
        assert whole.pairs is None or pairs_together(parts) == rows_of(whole)
        if whole.baskets is not None:
            together = [
                (rank + row * world_size, item)
                for rank, part in enumerate(parts)
                for row, item in baskets_of(part)
            ]
            assert sorted(together) == baskets_of(whole)
        for name, tensor in vars(whole).items():
            if name in ("pairs", "scored", "baskets"):
                continue
            if not isinstance(tensor, torch.Tensor):
                found = [getattr(part, name) for part in parts]
                assert found == [None] * world_size if tensor is None else sum(found) == tensor
                continue
            for rank, part in enumerate(parts):
                rows = tensor[rank::world_size]
                if name[-2:] in ("BL", "BS", "BT"):
                    rows = rows[:, columns_of(part, whole)[name[-1]]]
                assert torch.equal(getattr(part, name), rows), name


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("examples", [windows([3]), queries(1)])
def test_a_rank_without_a_row_counts_nothing(examples, model):
    _, none = parts_of(examples, model=model, world_size=2)
    assert not none.scored_BL.any() and not none.masked_BT.any()
    assert len(none.history_BL) == 1  # a row all the same: every rank runs the model
    assert none.num_scored == none.num_maskable == 0


@pytest.mark.parametrize("model", CONFIGS)
def test_a_row_holds_the_events_of_its_stretch_in_order(model):
    examples = windows([3, 7, 2, 5, 9])
    batch = make(examples, model=model)
    width = batch.history_BL.shape[1]
    for row, (start, _, end) in enumerate(stretches(examples)):
        length, slots = int(batch.lengths_B[row]), int(batch.num_slots_B[row])
        targets = batch.targets_BT[row].tolist()
        events = targets[:length] + targets[width : width + slots]
        assert events == [100 + e for e in range(start, end)]
        assert 1 <= length <= 4 and 1 <= slots <= 3


@pytest.mark.parametrize("model", CONFIGS)
def test_what_is_masked_is_hidden_and_the_rest_is_shown(model):
    batch = make(windows([3, 7, 2, 5, 9, 6, 6, 6]), model=model)
    inputs_BT = torch.cat([batch.history_BL, batch.slots_BS], dim=1)
    assert (inputs_BT[batch.masked_BT] == -1).all()
    assert torch.equal(inputs_BT[~batch.masked_BT], batch.targets_BT[~batch.masked_BT])


def exists(batch: Batch) -> torch.Tensor:
    """Which of the places [B, T] hold an event."""
    history_BL = torch.arange(batch.history_BL.shape[1]) < batch.lengths_B[:, None]
    slots_BS = torch.arange(batch.slots_BS.shape[1]) < batch.num_slots_B[:, None]
    return torch.cat([history_BL, slots_BS], dim=1)


@pytest.mark.parametrize("objective", [ObjectiveConfig(), RANDOM, SUFFIX])
@pytest.mark.parametrize("model", CONFIGS)
@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=8), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_padding_is_never_masked_and_never_scored(model, objective, lengths, seed):
    batch = make(windows(lengths), model=model, objective=objective, seed=seed)
    exists_BT = exists(batch)
    assert not (batch.masked_BT & ~exists_BT).any()
    assert not (batch.scored_BL & ~exists_BT[:, : batch.history_BL.shape[1]]).any()


def test_prefix_attention_never_masks_the_history():
    for objective in (ObjectiveConfig(), RANDOM, SUFFIX):
        batch = make(windows([9] * 50), objective=objective)
        width = batch.history_BL.shape[1]
        assert not batch.masked_BT[:, :width].any() and batch.masked_BT[:, width:].any()


def test_bidirectional_attention_masks_the_history_too():
    batch = make(windows([9] * 50), model=BIDIRECTIONAL, objective=RANDOM)
    assert batch.masked_BT[:, : batch.history_BL.shape[1]].any()
    assert batch.num_maskable == int(exists(batch).sum()) and batch.num_scored == 0


def test_a_causal_model_masks_nothing_and_scores_every_event_of_the_history():
    batch = make(windows([9] * 5), model=CAUSAL)
    assert not batch.masked_BT.any() and batch.num_maskable == 0
    assert batch.num_scored == int(batch.scored_BL.sum()) == 5 * 8  # all but the first events
    assert torch.equal(batch.next_BL[batch.scored_BL], batch.history_BL[batch.scored_BL] + 1)


def test_a_causal_model_has_every_event_but_the_first_as_its_next_item_once():
    batch = make(windows([3, 7, 2, 5, 9]), model=CAUSAL)
    first = {100, 103, 110, 112, 117}
    expected = [item for item in range(100, 126) if item not in first]
    assert sorted(batch.next_BL[batch.scored_BL].tolist()) == expected


@pytest.mark.parametrize("model", [PREFIX, BIDIRECTIONAL])
@pytest.mark.parametrize("examples", [windows([9] * 50), queries(50)])
def test_a_masked_suffix_hides_every_slot_with_certainty(examples, model):
    batch = make(examples, model=model, objective=SUFFIX)
    width = batch.history_BL.shape[1]
    exists_BT = exists(batch)
    assert torch.equal(batch.masked_BT[:, width:], exists_BT[:, width:])
    assert not batch.masked_BT[:, :width].any()
    assert (batch.p_mask_BT[batch.masked_BT] == 1).all()
    assert batch.num_maskable == int(exists_BT[:, width:].sum())


def test_the_length_of_a_masked_suffix_is_drawn_evenly():
    batch = make(windows([5] * 3000), objective=SUFFIX)
    shares = torch.bincount(batch.num_slots_B, minlength=4) / 3000
    assert shares.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.03)


def test_the_mask_patterns_come_in_their_shares():
    objective = ObjectiveConfig(next_item=0.5, random_mask=0.0, suffix_mask=0.5)
    batch = make(windows([5] * 3000), model=BIDIRECTIONAL, objective=objective)
    # half of the rows have one slot; of the other half a third
    share = float((batch.num_slots_B == 1).float().mean())
    assert share == pytest.approx(1 / 2 + 1 / 6, abs=0.03)


def test_random_masks_hide_a_slot_with_the_probability_that_weighs_it():
    batch = make(windows([5] * 12_000), objective=RANDOM)
    width = batch.history_BL.shape[1]
    masked, p_mask = batch.masked_BT[:, width:], batch.p_mask_BT[:, width:]
    assert (batch.num_slots_B == 3).all() and batch.num_maskable == 36_000
    assert float(masked.float().mean()) == pytest.approx(float(p_mask.mean()), abs=0.01)
    assert float(p_mask.mean()) == pytest.approx(0.5, abs=0.01)


def test_batch_times_are_boundaries_and_only_the_state_before_them_is_scored():
    batch = make(queries(3), model=CAUSAL)
    assert batch.history_BL.tolist() == [[100, 101], [105, 106], [110, 111]]
    assert batch.next_BL[batch.scored_BL].tolist() == [102, 107, 112]
    assert batch.scored_BL.sum(1).tolist() == [1, 1, 1] and batch.num_scored == 3


def test_batch_times_of_a_diffusion_model_score_masked_slots_alone():
    for model in (PREFIX, BIDIRECTIONAL):
        batch = make(queries(3), model=model, objective=SUFFIX)
        assert batch.num_scored == 0 and not batch.scored_BL.any()
        assert batch.targets_BT[:, 2].tolist() == [102, 107, 112]


@pytest.mark.parametrize("model", CONFIGS)
@pytest.mark.parametrize("examples", [windows([3, 7, 2, 5, 9]), queries(5)])
def test_the_counts_of_all_ranks_add_up_to_those_of_the_global_batch(examples, model):
    whole = make(examples, model=model)
    assert whole.num_scored == int(whole.scored_BL.sum())
    parts = parts_of(examples, model=model, world_size=3)
    assert sum(part.num_scored for part in parts) == whole.num_scored
    assert sum(part.num_maskable for part in parts) == whole.num_maskable


# --- what is known as of a batch time ---


def query_batch(
    histories: list[list[tuple[int, int]]],
    query_times: list[int],
    model: ModelConfig = PREFIX,
    max_seq_len: int = 4,
) -> Batch:
    """The examples of users with events (item, time) at the batch times, in one batch."""
    events = [event for history in histories for event in history]
    items = np.array([item for item, _ in events], np.int32)
    times = np.array([time for _, time in events])
    offsets = offsets_of([len(history) for history in histories])
    examples = query_examples(
        times,
        offsets,
        np.diff(offsets),
        query_times=np.array(query_times),
        max_seq_len=max_seq_len,
        num_slots=3,
    )
    return make_batch(
        Events(items, times, event_gaps(times, offsets)),
        Part.whole(examples),
        query_times=np.array(query_times),
        model=model,
        objective=ObjectiveConfig(),
        generator=torch.Generator().manual_seed(0),
        filter_seen=False,
    )


def test_windows_know_no_query_time():
    batch = make(windows([3, 7]))
    assert batch.pairs is None and batch.ages_B is None and set(batch.queries_B.tolist()) == {DRAWN}


@pytest.mark.parametrize("model", CONFIGS)
def test_the_pairs_of_an_example_are_its_items_strictly_before_the_batch_time(model):
    one = [(7, 1 * DAY), (3, 2 * DAY), (7, 4 * DAY), (9, 5 * DAY), (8, 6 * DAY)]
    other = [(1, 3 * DAY), (3, 9 * DAY)]
    batch = query_batch([one, other], [2 * DAY, 5 * DAY], model=model)
    assert batch.queries_B.tolist() == [0, 1, 1]
    # an event at the batch time is a target; the other user has nothing before the first time
    pairs = [(row, item) for row, item, _ in rows_of(batch)]
    assert pairs == [(0, 7), (1, 3), (1, 7), (2, 1)]


def test_pairs_are_of_the_whole_history_and_not_of_what_attention_reads():
    long = [(item, item * DAY) for item in range(10)]
    batch = query_batch([long], [8 * DAY])
    assert batch.history_BL.tolist() == [[4, 5, 6, 7]]
    assert [item for _, item, _ in rows_of(batch)] == list(range(8))


def test_nothing_at_or_after_the_batch_time_changes_an_examples_inputs():
    past = [(1, 1 * DAY), (2, 3 * DAY), (1, 4 * DAY)]
    targets = [[(3, 5 * DAY), (4, 6 * DAY)], [(1, 7 * DAY), (9, 9 * DAY)]]
    first, second = (query_batch([past + later], [5 * DAY], CAUSAL) for later in targets)
    assert rows_of(first) == rows_of(second)
    for name in ("history_BL", "gaps_BL", "lengths_B", "ages_B", "queries_B"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert not torch.equal(first.targets_BT, second.targets_BT)


def test_an_age_is_the_time_from_the_end_of_the_history_to_the_batch_time():
    history = [(1, 0), (2, 3 * DAY), (3, 50 * DAY)]
    batch = query_batch([history], [1 * DAY, 10 * DAY, 40 * DAY])
    expected = gap_buckets(np.array([1, 7, 37]) * DAY)
    assert batch.ages_B is not None
    assert batch.ages_B.tolist() == expected.tolist() and len(set(expected.tolist())) == 3


@pytest.mark.parametrize("model", CONFIGS)
def test_the_gaps_of_a_history_stand_beside_its_items(model):
    for examples in (windows([3, 7, 2, 5, 9]), queries(5)):
        batch = make(examples, model=model)
        place_L = torch.arange(batch.history_BL.shape[1])
        width = batch.history_BL.shape[1]
        items_BL = batch.targets_BT[:, :width]
        expected = torch.where(place_L < batch.lengths_B[:, None], items_BL - 100, 0)
        assert torch.equal(batch.gaps_BL, expected)


def test_the_first_event_of_a_user_has_no_gap_and_the_first_of_a_window_has_its_own():
    history = [(1, 0), (2, 2 * DAY), (3, 3 * DAY), (4, 9 * DAY)]
    whole = query_batch([history], [5 * DAY], CAUSAL)
    two, one = gap_buckets(np.array([2, 1]) * DAY).tolist()
    assert whole.gaps_BL.tolist() == [[0, two, one]]
    cut = query_batch([history], [5 * DAY], CAUSAL, max_seq_len=2)
    assert cut.gaps_BL.tolist() == [[two, one]]


def test_the_next_basket_is_all_distinct_items_of_the_first_moment():
    one = [(7, DAY), (3, 3 * DAY), (9, 3 * DAY), (3, 3 * DAY), (8, 4 * DAY)]
    other = [(1, 2 * DAY), (5, 3 * DAY)]
    batch = query_batch([one, other], [2 * DAY, 3 * DAY])
    assert batch.queries_B.tolist() == [0, 1, 1]
    assert baskets_of(batch) == [(0, 3), (0, 9), (1, 3), (1, 9), (2, 5)]


def test_a_batch_moves_to_a_device_with_its_pairs_and_baskets():
    batch = query_batch([[(1, 0), (2, DAY)]], [DAY])
    moved = batch.to(torch.device("meta"))
    assert moved.pairs is not None and moved.pairs.features_XC.device.type == "meta"
    assert moved.baskets is not None and moved.baskets.items_Z.device.type == "meta"
    assert moved.ages_B is not None
    assert moved.gaps_BL.device.type == moved.ages_B.device.type == "meta"
