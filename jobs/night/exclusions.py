"""What is said of single users: what they must not be shown tonight, and who gets a list at all.

Exclusions of the business and what users saw lately are pairs of user and item. One shuffle brings
them to the buckets of their users.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.side_tables import read_columns
from diffsasrec.lake.chain import newest_by_date, read_chain
from diffsasrec.lake.consumer_copy import lists_of
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.progress import beating
from diffsasrec.schema import canonical, canonical_type, like, list_offsets, list_values
from diffsasrec.score.state_files import NIGHT_STATE
from diffsasrec.sequences.buckets import bucket_name, bucket_of

from .records import Prepared
from .table_copies import EXCLUDE_KEY, PAIR, copy_of, exclusion_copies

EXCLUDED = f"{NIGHT_STATE}/excluded"
ASKED = f"{NIGHT_STATE}/asked"  # users by bucket, where a table says who gets a list
RULES = ("excluded", "rested")  # as they are counted


def lately_published(lake: Storage, ds: str, nights: int) -> tuple[str, ...]:
    """The run directories of what the newest `nights` published dates before `ds` show."""
    if not nights:
        return ()
    newest = newest_by_date(read_chain(lake))
    dates = sorted(date for date in newest if date < ds)[-nights:]
    return tuple(run_path(date, newest[date].run_id) for date in dates)


def rested_lists(run: RunDir) -> list[str]:
    """The files with the lists of the nights that rest, relative to the lake.

    Raises:
        ConfigError: those of a night are gone, so that nobody knows what its users were shown.
    """
    nights = beating(run.rested)
    found = {night: lists_of(run.lake, *_ds_and_run_id(night)) for night in nights}
    if gone := [night for night, files in found.items() if not files]:
        usable = list(found)[::-1].index(gone[-1])
        raise ConfigError(
            f"score.rest_nights needs the lists of {', '.join(gone)}: they are gone from the run "
            f"and from where its date shows them; set score.rest_nights={usable} until enough "
            "nights are published again, or restore them, and let --keep leave more runs"
        )
    return [path for files in found.values() for path in files]


def _ds_and_run_id(run: str) -> tuple[str, str]:
    _, folder, run_id = run.split("/")
    return folder.removeprefix("ds="), run_id


def write_excluded(run: RunDir, prepared: Prepared) -> None:
    """Writes the pairs of every bucket that has any."""
    files = [("excluded", path) for path in exclusion_copies(run.storage)]
    files += [("rested", path) for path in rested_lists(run)]
    if not files:
        return
    user_type = user_type_of(run.storage)
    import ray.data  # takes seconds, which a run that writes none need not wait for

    written = (
        ray.data.from_items(
            [{"rule": rule, "path": path} for rule, path in files], override_num_blocks=len(files)
        )
        .map_batches(
            _read_pairs,
            fn_kwargs={"lake": run.lake, "user_type": user_type, "num": prepared.num_buckets},
            batch_format="pyarrow",
            batch_size=1,
        )
        .repartition(prepared.num_buckets, keys=["bucket"])
        .map_batches(
            _write_pairs,
            fn_kwargs={"output": run.storage.sub(EXCLUDED)},
            batch_format="pyarrow",
            batch_size=None,
        )
    )
    for _ in beating(written.iter_rows()):
        pass


def user_type_of(run: Storage) -> pa.DataType:
    """The canonical type of the users of the log."""
    users = run.read_table(f"sequences/{bucket_name(0)}", ["user_id"])["user_id"]
    return canonical_type(users.type)


def by_bucket(
    listed: pa.Array, user_type: pa.DataType, num: int
) -> tuple[list[pa.Array], pa.Array]:
    """Canonical ids by the `num` buckets of users of a type, and those that can be in none."""
    users = like(listed, user_type)
    can_be = users.is_valid()
    users, rest = users.filter(can_be), listed.filter(pc.invert(can_be))
    bucket = bucket_of(users, num)
    order = np.argsort(bucket, kind="stable")
    bounds = np.searchsorted(bucket[order], np.arange(num + 1))
    grouped = listed.filter(can_be).take(pa.array(order))
    return [grouped.slice(a, b - a) for a, b in pairwise(bounds)], rest


def write_asked(run: RunDir, prepared: Prepared) -> None:
    """Writes for every bucket which users get a list, if the run has a table that says so."""
    if not run.storage.exists(copy_of("users")):
        return
    listed = canonical(run.storage.read_table(copy_of("users"))["user_id"]).combine_chunks()
    user_type = user_type_of(run.storage)
    parts, _ = by_bucket(listed, user_type, prepared.num_buckets)

    def write(bucket: int) -> None:
        table = pa.table({"user_id": like(parts[bucket], user_type)})
        run.storage.write_table(f"{ASKED}/{bucket_name(bucket)}", table)

    with ThreadPoolExecutor(8) as pool:
        for _ in beating(pool.map(write, range(prepared.num_buckets))):
            pass


def _read_pairs(batch: pa.Table, *, lake: Storage, user_type: pa.DataType, num: int) -> pa.Table:
    """The pairs of one file with rule and bucket, without users that the log can't have."""
    (rule,), (path,) = batch["rule"].to_pylist(), batch["path"].to_pylist()
    if rule == "excluded":
        pairs = read_columns(path, EXCLUDE_KEY, PAIR)
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
    """The number of pairs of a bucket by rule, of users that the log knows."""
    path = f"{EXCLUDED}/{bucket_name(bucket)}"
    if not run.exists(path):
        return Counter()
    pairs = run.read_table(path)
    users = run.read_table(f"sequences/{bucket_name(bucket)}", ["user_id"])["user_id"]
    known = pc.is_in(pairs["user_id"], value_set=canonical(users).combine_chunks())
    counts = np.bincount(pairs["rule"].filter(known).to_numpy(), minlength=len(RULES))
    return Counter({f"{rule}_pairs": int(n) for rule, n in zip(RULES, counts, strict=True)})
