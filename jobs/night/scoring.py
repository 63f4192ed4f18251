"""How lists are made on a night, for everyone or for the holdout users, and the making of them."""

import logging
from dataclasses import replace
from typing import Literal

import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.config.decoding import DecodingConfig
from diffsasrec.evaluate.counter_settings import CounterSettings
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.progress import Progress
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.score.actors import score, unscored_buckets
from diffsasrec.score.bucket_lists import Scoring, quarantine_of, quarantined_users
from diffsasrec.score.state_files import NIGHT_STATE
from diffsasrec.sequences.buckets import bucket_name
from diffsasrec.times import DAY, microseconds

from .exclusions import ASKED, EXCLUDED
from .records import Evaluated
from .table_copies import rules_of_run

log = logging.getLogger(__name__)


def night_scoring(config: Config, run: RunDir) -> Scoring:
    """How everyone is scored as of the run date; by a counter, if the measuring has said so."""
    evaluated = Evaluated.if_done(run)
    return scoring_of(
        config,
        run,
        checkpoint="checkpoint",
        output="recommendations",
        users="all",
        query_time=microseconds(run.ds),
        state=NIGHT_STATE,
        excluded=EXCLUDED if config.score.exclude_path or config.score.rest_nights else "",
        asked=ASKED if config.score.users_path else "",
        counter=None if evaluated is None else evaluated.counter_settings,
    )


def scoring_of(
    config: Config,
    run: RunDir,
    *,
    checkpoint: str,
    output: str,
    users: Literal["holdout", "all"],
    query_time: int,
    state: str,
    excluded: str = "",
    asked: str = "",
    counter: CounterSettings | None = None,
) -> Scoring:
    """The configured way of scoring; arguments as in Scoring. A counter decodes in one pass."""
    settings: DecodingConfig = config.score
    if counter is not None:
        settings = settings.model_copy(update={"decode": "single", "rank": "next_item"})
    rules = rules_of_run(config, run.storage)
    if users == "holdout":  # the figures, and the choice of what is served, are without boosts
        rules = replace(rules, boost_path=None)
    active_since = None
    if config.score.active_days is not None and users == "all":
        active_since = microseconds(run.ds) - round(config.score.active_days * DAY)
    return Scoring(
        run=run.storage,
        checkpoint=checkpoint,
        output=output,
        users=users,
        query_time=query_time,
        state=state,
        active_since=active_since,
        rules=rules,
        decoding=settings,
        excluded=excluded,
        asked=asked,
        max_quarantined_users=config.score.max_quarantined_users,
        min_item_count=config.split.min_item_count,
        counter=counter,
    )


def score_buckets(config: Config, scoring: Scoring, num_buckets: int, what: str) -> None:
    missing = unscored_buckets(scoring, num_buckets)
    shown = Progress(what, "bucket", interval=config.log_interval)
    num_present = num_buckets - len(missing)
    scored = score(
        scoring,
        missing,
        num_actors=config.score.num_actors,
        cpus_per_actor=config.score.cpus_per_actor,
        gpus_per_actor=config.score.gpus_per_actor,
        progress=lambda done: shown.update(num_present + done, num_buckets),
    )
    if scored.num_uncertain:
        log.info(
            "%s: %d steps of users took the whole catalogue, as a shortlist of %d could not decide",
            what,
            scored.num_uncertain,
            config.score.shortlist,
        )
    if num := sum(map_tasks(name_quarantined, range(num_buckets), scoring)):
        log.warning(
            "%s: the scoring of %d users ended its process or ran out of memory; they have the "
            "fallback and stand in %s",
            what,
            num,
            scoring.run.url(quarantine_of(scoring.output)),
        )


def name_quarantined(bucket: int, scoring: Scoring) -> int:
    """Writes beside a bucket's lists who was quarantined in them, for people; how many."""
    name = bucket_name(bucket)
    path = f"{quarantine_of(scoring.output)}/{name}"
    users = quarantined_users(scoring.run.read_table(f"{scoring.output}/{name}", ["user_id"]))
    if not len(users):
        scoring.run.delete([path])  # of an attempt whose lists came to nothing
        return 0
    reasons = pa.array(["scoring ended the process, or was out of memory"] * len(users))
    scoring.run.write_table(path, pa.table({"user_id": users, "reason": reasons}))
    return len(users)
