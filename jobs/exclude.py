"""What users must not be shown tonight: exclusions of the business, and what they saw lately.

Both are pairs of user and item, which are brought to the buckets of their users by one shuffle.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from diffsasrec.config import Config
from diffsasrec.lists import NIGHT_STATE
from diffsasrec.progress import HEARTBEAT
from diffsasrec.publish import newest_by_date, read_chain, run_path
from diffsasrec.rundir import RunDir
from diffsasrec.schema import canonical, canonical_type, like, list_offsets, list_values
from diffsasrec.sequences import bucket_name, bucket_of
from diffsasrec.storage import Storage, stat_files
from diffsasrec.tables import check_columns, read_columns

EXCLUDED = f"{NIGHT_STATE}/excluded"
KEY = "score.exclude_path"
PAIR = {"user_id": "id", "item_id": "id"}
RULES = ("excluded", "rested")  # as they are counted


def exclusion_files(path: str | None) -> list[str]:
    """The files of score.exclude_path, which is one or a directory of them."""
    if path is None:
        return []
    if path.endswith((".csv", ".parquet")):
        return [path]
    names = [name for name, _, _ in stat_files(path) if name.endswith((".csv", ".parquet"))]
    return [f"s3://{name}" if path.startswith("s3://") else name for name in names] or [path]


def lately_published(lake: Storage, ds: str, nights: int) -> list[str]:
    """The run directories of what the newest `nights` published dates before `ds` show."""
    if not nights:
        return []
    newest = newest_by_date(read_chain(lake))
    dates = sorted(date for date in newest if date < ds)[-nights:]
    return [run_path(date, newest[date].run_id) for date in dates]


def check_exclusions(path: str | None) -> None:
    """Looks at the columns of all files.

    Raises:
        ConfigError: score.exclude_path is no table of pairs.
    """
    for file in exclusion_files(path):
        check_columns(file, KEY, PAIR)


def write_excluded(config: Config, run: RunDir, prepared: dict[str, Any]) -> None:
    """Writes the pairs of every bucket that has any."""
    files = [("excluded", path) for path in exclusion_files(config.score.exclude_path)]
    for night in lately_published(run.lake, run.ds, config.score.rest_nights):
        shown = run.lake.sub(night).list("recommendations")
        files += [("rested", f"{night}/{info.path}") for info in shown]
    if not files:
        return
    user_type = canonical_type(
        run.storage.read_table(f"sequences/{bucket_name(0)}", ["user_id"])["user_id"].type
    )
    written = (
        ray.data.from_items(
            [{"rule": rule, "path": path} for rule, path in files], override_num_blocks=len(files)
        )
        .map_batches(
            _read_pairs,
            fn_kwargs={"lake": run.lake, "user_type": user_type, "num": prepared["num_buckets"]},
            batch_format="pyarrow",
            batch_size=1,
        )
        .repartition(prepared["num_buckets"], keys=["bucket"])
        .map_batches(
            _write_pairs,
            fn_kwargs={"output": run.storage.sub(EXCLUDED)},
            batch_format="pyarrow",
            batch_size=None,
        )
    )
    for _ in written.iter_rows():
        HEARTBEAT.beat()


def _read_pairs(batch: pa.Table, *, lake: Storage, user_type: pa.DataType, num: int) -> pa.Table:
    """The pairs of one file, with rule and bucket, but for users that no log has."""
    (rule,), (path,) = batch["rule"].to_pylist(), batch["path"].to_pylist()
    if rule == "excluded":
        pairs = read_columns(path, KEY, PAIR)
    else:
        lists = lake.read_table(path, ["user_id", "items"])
        lengths = np.diff(list_offsets(lists["items"]))
        owner = np.repeat(np.arange(len(lengths)), lengths)
        items = list_values(lists["items"]).field("item_id")
        pairs = pa.table({"user_id": lists["user_id"].take(pa.array(owner)), "item_id": items})
    users = like(canonical(pairs["user_id"]).combine_chunks(), user_type)
    known = pc.and_(pc.is_valid(users), pc.is_valid(pairs["item_id"].combine_chunks()))
    items = canonical(pairs["item_id"]).combine_chunks().filter(known)
    users = users.filter(known)
    return pa.table(
        {
            "bucket": pa.array(bucket_of(users, num)),
            "user_id": users,
            "item_id": items.cast(pa.string()),  # files may differ in their types
            "rule": pa.array(np.full(len(users), RULES.index(rule), np.int8)),
        }
    )


def _write_pairs(block: pa.Table, *, output: Storage) -> pa.Table:
    """Writes the pairs of each bucket in one order, however they came here."""
    for bucket in pc.unique(block["bucket"]).to_pylist() if block.num_rows else []:
        rows = block.filter(pc.equal(block["bucket"], bucket)).drop_columns("bucket")
        order = [(name, "ascending") for name in ("user_id", "item_id", "rule")]
        output.write_table(bucket_name(bucket), rows.sort_by(order))
    return pa.table({"rows": [block.num_rows]})


def count_excluded(bucket: int, run: Storage) -> Counter[str]:
    """The pairs of a bucket by rule, those of users that the log knows."""
    path = f"{EXCLUDED}/{bucket_name(bucket)}"
    if not run.exists(path):
        return Counter()
    pairs = run.read_table(path)
    users = run.read_table(f"sequences/{bucket_name(bucket)}", ["user_id"])["user_id"]
    known = pc.is_in(pairs["user_id"], value_set=canonical(users).combine_chunks())
    counts = np.bincount(pairs["rule"].filter(known).to_numpy(), minlength=len(RULES))
    return Counter({f"{rule}_pairs": int(n) for rule, n in zip(RULES, counts, strict=True)})
