"""What the largest process of each stage will hold in memory."""

from diffsasrec.config.config import Config
from diffsasrec.counters.neighbours import SAMPLE
from diffsasrec.counters.similar import num_neighbours
from diffsasrec.counters.tables import KINDS, MOST_USERS
from diffsasrec.lake.stages import WORKERS, Workers
from diffsasrec.model.features import NUM_TRENDS

PROCESS_BYTES = 0.6e9  # of a process that has loaded Ray and torch


def memory_of(config: Config, *, rows: float, users: float, items: float) -> dict[str, float]:
    """Bytes of the largest process of each stage, by what it holds."""
    history = rows / max(users, 1.0)
    bucket = min(config.split.users_per_bucket, users) * history * 12
    numbers = config.model.hidden_size * items
    # a worker's share of a group of buckets, and of the next one; before that, the users that
    # tables of similar items are counted over, and their newest events
    share = -(-config.train.buckets_in_memory // config.train.num_workers)
    sample = min(MOST_USERS, users) * history * 12 * config.model.scores_similar
    # weights, gradients, two moments and the average of the weights
    training = 5 * 4 * numbers + 2 * max(share * bucket, sample)
    # an index and a number per entry of the tables of similar items
    similar = len(KINDS) * num_neighbours(int(items)) * 8 * config.model.scores_similar
    # the same of the tastes of users, as they are and turned
    tastes = 2 * 8 * history * min(SAMPLE, users) * config.model.scores_nearest
    moments = config.finetune.query_times + 1
    training += moments * ((NUM_TRENDS * 4 + similar) * items + tastes)
    scoring = 4 * numbers + 4 * items * (config.model.hidden_size + NUM_TRENDS) + 2 * bucket
    scoring += similar * items + tastes
    preparing = 100 * items + 8 * bucket
    by_workers: dict[Workers, float] = {"tasks": preparing, "train": training, "score": scoring}
    by_stage = {stage: by_workers[workers] for stage, workers in WORKERS.items()}
    by_stage["publish"] = scoring  # the audit makes histories and rules again
    return {stage: PROCESS_BYTES + held for stage, held in by_stage.items()}
