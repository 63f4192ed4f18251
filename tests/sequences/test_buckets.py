"""Buckets: how many, their files, and which one a user falls into."""

import numpy as np
import pyarrow as pa
import pytest

from diffsasrec.sequences.buckets import bucket_name, bucket_of, num_buckets


@pytest.mark.parametrize(
    ("num_users", "expected"), [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2), (1001, 11)]
)
def test_buckets_are_as_many_as_the_users_need(num_users, expected):
    assert num_buckets(num_users, users_per_bucket=100) == expected


def test_bucket_files_sort_as_their_numbers():
    assert bucket_name(0) == "part-00000.parquet"
    assert bucket_name(9) < bucket_name(10) < bucket_name(99999)


def test_the_bucket_of_a_user_never_changes():
    assert bucket_of(pa.array(["a", "b"]), 10).tolist() == [4, 5]
    assert bucket_of(pa.array([1, 2]), 10).tolist() == [9, 0]


def test_the_bucket_of_a_user_does_not_depend_on_the_others():
    users = pa.array([f"user-{n}" for n in range(40)])
    alone = [int(bucket_of(users[n : n + 1], 7)[0]) for n in range(40)]
    assert bucket_of(users, 7).tolist() == alone


def test_buckets_are_about_equally_full():
    sizes = np.bincount(bucket_of(pa.array(np.arange(10_000)), 10), minlength=10)
    assert sizes.min() > 900
    assert sizes.max() < 1100
