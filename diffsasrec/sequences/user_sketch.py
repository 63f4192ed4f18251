"""About how many users there are, from the smallest hashes of their ids."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diffsasrec.schema import id_hash

SKETCH_SIZE = 4096  # smallest hashes kept to estimate the number of users: error about 1.6 %


def smallest_hashes(users: pa.Array) -> npt.NDArray[np.uint64]:
    """The smallest distinct hashes of users: a sketch of how many there are."""
    hashes = id_hash(users)
    # hashes are evenly spread: to sort all of them would be most of the work of a pass
    limit = 4 * SKETCH_SIZE / max(len(hashes), 1)
    while True:
        low = hashes if limit >= 1 else hashes[hashes < np.uint64(limit * 2.0**64)]
        smallest = np.unique(low)
        if len(smallest) >= SKETCH_SIZE or limit >= 1:
            return smallest[:SKETCH_SIZE]
        limit *= 8


def estimate_users(sketch: npt.NDArray[np.uint64]) -> int:
    """The number of distinct users from their smallest hashes; exact below `SKETCH_SIZE`.

    k minimum values (Bar-Yossef et al. 2002): a function of the set of users alone.
    """
    if len(sketch) < SKETCH_SIZE:
        return len(sketch)
    return int((SKETCH_SIZE - 1) / ((float(sketch[-1]) + 1) / 2.0**64))
