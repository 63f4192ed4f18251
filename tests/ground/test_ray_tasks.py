"""Tasks over buckets: how many run, and how few results come to the driver."""

from collections.abc import Iterator

import numpy as np
import pytest

from diffsasrec.ray_tasks import SPARE, group_size, map_tasks, sum_tasks


def test_no_more_tasks_than_cpus_and_a_few_are_begun_before_a_result_is_taken(cluster):
    begun: list[int] = []

    def arguments() -> Iterator[int]:
        for number in range(30):
            begun.append(number)
            yield number

    taken = []
    for result in map_tasks(lambda number, factor: number * factor, arguments(), 10):
        taken.append(result)
        assert len(begun) == min(2 + SPARE + len(taken) - 1, 30)
    assert sorted(taken) == [10 * number for number in range(30)]


def test_each_result_of_a_task_is_a_sign_of_life(cluster, beats: list[None]):
    for number, _ in enumerate(map_tasks(lambda number: number, range(3)), 1):
        assert len(beats) == number


def test_arrays_and_tuples_of_them_are_summed_by_the_tasks(cluster, beats: list[None]):
    def count(bucket: int, num: int) -> tuple[int, np.ndarray]:
        return 1, np.arange(num) * bucket

    number, counts = sum_tasks(count, range(20), 3)
    assert (number, counts.tolist()) == (20, [0, 190, 380])
    assert len(beats) == 3  # of 8, 8 and 4 buckets
    assert sum_tasks(lambda bucket: np.uint32(bucket), range(5)).dtype == np.uint32


@pytest.mark.parametrize(
    ("num", "cpus", "size"), [(3, 2, 8), (5000, 64, 19), (5000, 1000, 8), (5000, 2, 64)]
)
def test_a_task_sums_more_where_there_are_few_cpus(num: int, cpus: int, size: int):
    assert group_size(num, cpus) == size
