"""A pass over the log: what its tasks get."""

import pyarrow as pa

from diffsasrec.inputs.events import fragments_dataset, fragments_of
from diffsasrec.read_log.log import Fragment, Log


def test_the_tasks_of_a_pass_get_their_own_fragments_from_the_rows_and_no_log(cluster):
    def described(batch: pa.Table) -> pa.Table:
        [(number, fragment)] = fragments_of(batch)
        assert fragment is not None
        return pa.table({"text": [f"{number} {fragment.path} {fragment.row_group}"]})

    log = Log([Fragment(f"{n}.parquet", 7 - n) for n in range(3)], pa.int64(), pa.string())
    rows = fragments_dataset(log).map_batches(described, batch_format="pyarrow", batch_size=1)
    found = sorted(row["text"] for row in rows.iter_rows())
    assert found == ["0 0.parquet 7", "1 1.parquet 6", "2 2.parquet 5"]
