"""Tables of similar items as files of a run."""

from pathlib import Path

import numpy as np
import pytest
from similar_logs import NUM_ITEMS, Log, histories_of, random_similar

from diffsasrec.counters.similar import Similar, similarity
from diffsasrec.counters.tables import (
    MOST_USERS,
    SimilarAt,
    create_similar,
    read_similar,
    sampled_buckets,
)
from diffsasrec.files.storage import Storage
from diffsasrec.sequences.histories import Histories

LOG: Log = [[(0, 1), (1, 1), (2, 4)], [(0, 2), (2, 3), (3, 6)], [(1, 1), (2, 1)]]


def equal(one: Similar, other: Similar) -> bool:
    pairs = list(zip(one.tables(), other.tables(), strict=True))
    if one.tastes is not None and other.tastes is not None:
        pairs.append((one.tastes.shares, other.tastes.shares))
    same = all(np.array_equal(a.toarray(), b.toarray()) for a, b in pairs)
    return same and (one.tastes is None) == (other.tastes is None)


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage.of(str(tmp_path))


@pytest.mark.parametrize("with_tastes", [True, False])
def test_tables_come_back_and_are_never_replaced(run: Storage, with_tastes: bool):
    first = similarity(histories_of(LOG), num_items=NUM_ITEMS, with_tastes=with_tastes)
    assert (first.tastes is not None) == with_tastes
    create_similar(run, "a/similar.safetensors", first)
    create_similar(run, "a/similar.safetensors", random_similar(NUM_ITEMS))
    loaded = read_similar(run, "a/similar.safetensors")
    assert equal(loaded, first)
    for table, other in zip(loaded.tables(), first.tables(), strict=True):
        assert table.data.tobytes() == other.data.tobytes()


def test_tables_by_another_vocabulary_have_the_same_entries():
    similar = random_similar(4, share=0.8)
    moved = similar.reindexed(np.array([2, -1, 0, 4], np.int32), 5)
    for table, other in zip(similar.tables(), moved.tables(), strict=True):
        before, after = table.toarray(), other.toarray()
        assert after.shape == (5, 5) and other.has_sorted_indices
        kept = {0: 2, 2: 0, 3: 4}
        for row, new_row in kept.items():
            for column, new_column in kept.items():
                assert after[new_row, new_column] == before[row, column]
        assert not after[[1, 3]].any() and not after[:, [1, 3]].any()


def past(before: int) -> Histories:
    return histories_of(LOG).before(before)


def make(run: Storage, at: SimilarAt, rank: int, world_size: int) -> list[tuple[int, int, str]]:
    told: list[tuple[int, int, str]] = []
    at.make(
        past,
        num_items=NUM_ITEMS,
        with_tastes=True,
        rank=rank,
        world_size=world_size,
        tell=lambda *entry: told.append(entry),
    )
    return told


def test_ranks_share_the_times_and_read_what_the_others_have_made(run: Storage):
    ranks = [SimilarAt(run, "state/p/similar", np.array([2, 4, 7])) for _ in range(2)]
    told = [make(run, at, rank, 2) for rank, at in enumerate(ranks)]
    assert told[0][0] == (0, 200, ", table 1 of 2") and told[0][-1][0] < 200
    assert {entry[1] for entry in told[1]} == {100}
    for at in ranks:
        for number, time in enumerate((2, 4, 7)):
            assert equal(
                at.at(number), similarity(past(time), num_items=NUM_ITEMS, with_tastes=True)
            )
            assert at.at(number) is at.at(number)


def test_what_is_there_is_not_made_again(run: Storage):
    times = np.array([2, 4])
    other = random_similar(NUM_ITEMS)
    create_similar(run, "d/0.safetensors", other)
    at = SimilarAt(run, "d", times)
    told = make(run, at, 0, 1)
    assert told and all(entry[2] == ", table 2 of 2" for entry in told)
    assert equal(at.at(0), other)


def test_a_sample_of_the_buckets_holds_enough_users():
    assert sorted(sampled_buckets(8, MOST_USERS // 2)) == list(range(8))
    few = sampled_buckets(8, 4 * MOST_USERS)
    assert len(few) == 2 and few == sampled_buckets(8, MOST_USERS // 2)[:2]
    assert sampled_buckets(3, 0) == sampled_buckets(3, 1)
