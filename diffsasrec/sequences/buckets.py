"""Which file a user's row lies in: our own hash of the id modulo the number of buckets."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.schema import (
    id_hash,
)


def bucket_name(bucket: int) -> str:
    return f"part-{bucket:05d}.parquet"


def num_buckets(num_users: int, *, users_per_bucket: int) -> int:
    return max(1, -(-num_users // users_per_bucket))


def bucket_of(user_ids: pa.Array, num: int) -> npt.NDArray[np.int32]:
    """The bucket of each canonical user id, [n]."""
    return (id_hash(user_ids) % np.uint64(num)).astype(np.int32)
