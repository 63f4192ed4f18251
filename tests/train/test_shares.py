"""Which worker reads what of an epoch: all of it is known from the numbers of examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.train.epochs import epoch_groups, group_steps
from diffsasrec.train.phases import read_ahead
from diffsasrec.train.ranks import Share, places_of_step, share_of

counts_of_buckets = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def shares_of(num_examples: list[int], world_size: int) -> list[Share]:
    counts = np.array(num_examples)
    return [share_of(counts, rank=rank, world_size=world_size) for rank in range(world_size)]


def buckets_read(num_buckets: int, world_size: int, *, buckets_in_memory: int = 8) -> list[int]:
    """How many bucket files each rank reads in an epoch."""
    counts = np.random.default_rng(0).integers(90, 110, num_buckets)
    groups = epoch_groups(
        counts, seed=0, phase="pretrain", epoch=3, buckets_in_memory=buckets_in_memory
    )
    return [
        sum(len(share_of(counts[g], rank=rank, world_size=world_size).parts) for g in groups)
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_rank_reads_its_part_of_the_files_and_no_other(world_size):
    assert buckets_read(64, world_size) == [64 // world_size] * world_size
    # the last group has 4 buckets: eight workers read them by halves
    assert buckets_read(100, world_size) == [-(-100 // world_size)] * world_size


def test_workers_that_do_not_divide_the_buckets_share_those_between_them():
    assert buckets_read(64, 3) == [24, 32, 24]
    assert buckets_read(3, 4) == [1, 2, 2, 1] and set(buckets_read(3, 8)) == {1, 2}
    assert [part for share in shares_of([10] * 8, 3) for part in share.parts if part[0] == 2] == [
        (2, slice(0, 6)),
        (2, slice(6, 33)),  # and of the buckets behind it
    ]


@given(num_examples=counts_of_buckets, world_size=st.integers(1, 20))
@settings(deadline=None)
def test_every_example_of_a_group_is_one_ranks_alone(num_examples, world_size):
    owned, places = [], []
    for share in shares_of(num_examples, world_size):
        assert share.parts  # where it has no example it has one to go through the motions with
        mine = [(b, n) for b, own in share.parts for n in range(num_examples[b])[own]]
        assert len(mine) == len(share.places)
        owned += mine
        places += [*share.places]
    assert owned == [(b, n) for b, num in enumerate(num_examples) for n in range(num)]
    assert places == [*range(sum(num_examples))]


@given(
    num_examples=counts_of_buckets,
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 9),
)
@settings(deadline=None)
def test_the_steps_of_all_ranks_take_every_example_once_and_are_those_of_one(
    num_examples, batch_size, world_size
):
    counts = np.array(num_examples)
    num_steps = group_steps(np.arange(len(counts)), counts, batch_size=batch_size)
    used: list[int] = []
    for step in range(num_steps):
        parts = [
            places_of_step(share.places, step=step, num_steps=num_steps).tolist()
            for share in shares_of(num_examples, world_size)
        ]
        together = [place for part in parts for place in part]
        alone = places_of_step(range(counts.sum()), step=step, num_steps=num_steps)
        assert together == alone.tolist()
        assert [place // num_steps for place in together] == [*range(len(alone))]
        assert batch_size - len(alone) >= 0 and len(alone) in (
            counts.sum() // num_steps,
            -(-counts.sum() // num_steps),
        )
        used += together
    assert sorted(used) == [*range(counts.sum())]


def test_ranks_with_as_many_examples_have_as_many_rows_in_every_step():
    for world_size in (2, 4, 8):
        for share in shares_of([1000] * 8, world_size):
            rows = [
                len(places_of_step(share.places, step=step, num_steps=250)) for step in range(250)
            ]
            assert set(rows) == {32 // world_size}


def test_buckets_of_different_sizes_last_as_long_as_each_other():
    # three times as many examples: three times as many in each batch, to the end
    small, large = shares_of([300, 900], 2)
    for step in range(38):
        few, many = (
            len(places_of_step(share.places, step=step, num_steps=38)) for share in (small, large)
        )
        assert few in (7, 8) and many in (23, 24)


@given(
    num_examples=st.lists(st.integers(0, 9), min_size=1, max_size=7),
    buckets_in_memory=st.integers(1, 4),
)
@settings(deadline=None)
def test_every_bucket_with_examples_is_in_one_group(num_examples, buckets_in_memory):
    counts = np.array(num_examples)
    groups = epoch_groups(
        counts, seed=0, phase="pretrain", epoch=3, buckets_in_memory=buckets_in_memory
    )
    assert all(len(group) <= buckets_in_memory for group in groups)
    assert sorted(np.concatenate([[], *groups]).tolist()) == np.flatnonzero(counts).tolist()


def test_what_is_read_ahead_comes_in_order_and_only_one_is_ahead():
    called: list[int] = []

    def read(number: int) -> int:
        called.append(number)
        return number

    for number in read_ahead([lambda n=n: read(n) for n in range(5)]):  # type: ignore[misc]
        assert number < len(called) <= number + 2
    assert called == [*range(5)]


def test_an_error_of_what_is_read_ahead_comes_where_it_is_asked_for():
    def broken() -> int:
        raise FileNotFoundError("sequences/part-00001.parquet")

    reading = read_ahead([lambda: 0, broken])
    assert next(reading) == 0
    with pytest.raises(FileNotFoundError, match="part-00001"):
        next(reading)
