"""Makes lists of a published night once more, with the steps that filled them."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.decode.trace import Trace
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.score.bucket_lists import quarantine_of, quarantined_users
from diffsasrec.score.list_maker import ListMaker
from diffsasrec.score.online import check_description

from .scoring import night_scoring

KINDS = {  # of steps, in words
    "pass": "the single pass",
    "commit": "surest first",
    "explore": "exploring what is rarely shown",
    "next": "the next one after those before",
}


@dataclass(frozen=True)
class Remade:
    """Lists that were made once more."""

    rows: list[dict[str, Any]]  # as in recommendations; none for who is not scored
    trace: Trace
    item_ids: pa.Array  # by index, as in the trace


def remake(config: Config, run: RunDir, name: str, user_ids: pa.Array) -> Remade:
    """The lists of some users of a bucket, from the run directory.

    Args:
        user_ids: one batch of them, `score.batch_size` at most. Where the scoring of one has ended
            its process, all of them get the fallback.

    Raises:
        DiffsasrecError: the weights were changed, or a table that was a rule is gone.
    """
    check_description(run.storage)
    scoring = night_scoring(config, run)
    maker, trace = ListMaker(scoring, "cpu"), Trace()
    bucket = maker.read_bucket(name)
    some = bucket.filter(pc.is_in(bucket["user_id"], value_set=user_ids))
    ended = quarantined_users(run.storage.read_table(f"{scoring.output}/{name}", ["user_id"]))
    earlier = f"{quarantine_of(scoring.output)}/{name}"
    if not len(ended) and run.storage.exists(earlier):  # earlier versions said it only here
        ended = run.storage.read_table(earlier)["user_id"].combine_chunks()
    fallback = bool(pc.any(pc.is_in(ended, value_set=user_ids)).as_py())
    made = maker.lists(some, fallback=fallback, trace=trace)
    return Remade(made.to_pylist(), trace, maker.item_ids)
