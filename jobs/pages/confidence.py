"""How sure the model was of the slots that each step of decoding filled."""

import logging

import numpy as np
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.errors import DiffsasrecError
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.sequences.buckets import bucket_name
from jobs.night.replay import KINDS, remake
from jobs.pages.facts import Confidence, Night

log = logging.getLogger("jobs")

MOST_USERS = 64  # whose lists are made once more, in one batch
MOST_ITEMS = 1_000_000  # whose vectors are loaded for it, some hundred MB


def read_confidence(run: RunDir, night: Night, config: Config | None) -> tuple[Confidence, ...]:
    """Of each step, for users of the first bucket; () where all slots are filled by one pass."""
    if config is None or config.score.decode == "single" or not night.num_lists:
        return ()
    if night.counts("prepare").get("items", 0) > MOST_ITEMS:
        return ()
    name = bucket_name(0)
    lists = run.storage.read_table(f"recommendations/{name}", ["user_id", "source"])
    users = lists.filter(pc.equal(lists["source"], "model"))["user_id"].combine_chunks()
    most = min(MOST_USERS, config.score.batch_size)
    try:
        steps = remake(config, run, name, users.slice(0, most)).trace.steps
    except DiffsasrecError as error:  # a table of rules has gone since: the rest of the page stands
        log.warning("report: no confidence of the steps: %s", error)
        return ()
    found = []
    for number, step in enumerate(steps, 1):
        low, middle, high = np.quantile(step.confidence_F.numpy(), [0.1, 0.5, 0.9]).tolist()
        found.append(Confidence(number, KINDS[step.kind], len(step.slots_F), low, middle, high))
    return tuple(found)
