"""The log -> checked events, the split, the vocabulary, one row per user."""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from .runner.command import run_stages

    run_stages(("prepare",))

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError, InputDataError, find_ours
from diffsasrec.files.storage import to_json
from diffsasrec.inputs.moments import early_events, refuse_days_as_numbers
from diffsasrec.inputs.newest import Part, check_newest, recorded
from diffsasrec.inputs.quarantine import STOPPED
from diffsasrec.inputs.row_checks import (
    AFTER_RUN_DATE,
    BEFORE_LOOKBACK,
    FILTERED,
    NOT_READ,
    check_types,
    num_bad,
)
from diffsasrec.lake.chain import read_chain, standing
from diffsasrec.lake.manifest import read_manifest
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.progress import Progress, beating
from diffsasrec.read_log.earlier import Earlier, NotAsPublishedError
from diffsasrec.read_log.log import Log
from diffsasrec.sequences.buckets import num_buckets
from diffsasrec.sequences.build import Built, build_sequences
from diffsasrec.sequences.split_time import Survey, survey_log
from diffsasrec.times import iso, microseconds

from .night.records import Prepared
from .night.rule_effects import check_rules
from .night.table_copies import copy_tables, previous_vocab_of_run
from .runner.identity import source_digest
from .takeover.taking import Taking, keep_for_later, takeover

log = logging.getLogger(__name__)


def main(config: Config, run: RunDir) -> Prepared:
    with takeover(config, run, source=source_digest()) as taking:
        try:
            return prepare(config, run, taking)
        except Exception as error:
            damage = find_ours(error)
            if not isinstance(damage, NotAsPublishedError):
                raise
    return prepare(config, run, Taking(why_not=str(damage)))


def prepare(config: Config, run: RunDir, taking: Taking) -> Prepared:
    taking, found = taking.inspect(config, run)
    for note in found.notes:
        log.info("prepare: %s", note)
    copy_tables(config, run)
    previous_vocab = previous_vocab_of_run(config, run.storage, found.item_type)
    taking.say(found)
    num_read = sum(1 for _ in found.numbered())
    log.info("prepare: reading %d fragments of %d files", num_read, len(run.inputs))
    survey = survey_events(config, run, found, taking.earlier)
    check_survey(survey, config.events)
    num = num_buckets(survey.num_users, users_per_bucket=config.split.users_per_bucket)
    taking, found = taking.for_buckets(num, found)
    built = group_by_user(
        config, run, found, survey, num=num, previous_vocab=previous_vocab, earlier=taking.earlier
    )
    if config.events.incremental:
        keep_for_later(run, found, survey)
    counts = dict(sorted((survey.counts + built.counts).items()))
    log.info("prepare: %s", ", ".join(f"{name} {count}" for name, count in counts.items()))
    if not counts.get("holdout_users"):
        log.warning("prepare: no user has a holdout item; nothing can be measured")
    return Prepared(
        counts=counts,
        event_types=survey.types or None,
        rules=check_rules(run, built.vocab, num),
        num_buckets=num,
        num_items=built.vocab.num_rows,
        split_time=survey.split_time,
        second_cut=survey.second_cut,
        time_quantiles=survey.time_quantiles,
        newest=judge_newest(survey.newest, config, run),
        taken_over=taking.recorded(found, counts["rows"]),
        inputs=[dict(zip(("path", "size", "version"), f, strict=True)) for f in run.inputs],
        left_out=[
            {"reason": reason, "number": number, "example": example}
            for reason, number, example in run.left_out
        ],
    )


def check_survey(survey: Survey, events: EventsConfig) -> None:
    """Raises or warns of what the first pass has found."""
    check_split(survey, events.source)
    say_types(survey.types, events)
    refuse_days_as_numbers(survey.time_quantiles[len(survey.time_quantiles) // 2], events)
    if survey.num_early:
        log.warning("prepare: %s", early_events(survey.num_early, survey.first_time, events))


def survey_events(
    config: Config, run: RunDir, found: Log, earlier: Earlier | None = None
) -> Survey:
    """The first pass over the log: counts, quarantine, and the times of the split.

    Raises:
        InputDataError: the log is too dirty, or has no event before the run date.
    """
    split = config.split
    return survey_log(
        found,
        events=config.events,
        before=microseconds(run.ds),
        quantile=split.quantile,
        fixed_time=None if split.time is None else microseconds(split.time.isoformat()),
        quarantine=run.storage.sub("quarantine"),
        new_files=files_to_judge(run),
        earlier=earlier,
        check=lambda counts, newest, examples: check_or_record(
            counts, config, run, newest, examples
        ),
        progress=Progress("prepare", "fragment", interval=config.log_interval).update,
    )


def group_by_user(
    config: Config,
    run: RunDir,
    found: Log,
    survey: Survey,
    *,
    num: int,
    previous_vocab: pa.Table | None,
    earlier: Earlier | None = None,
) -> Built:
    """The second pass over the log: a row per user in `num` buckets, the vocabulary, the holdout.

    Raises:
        InputDataError: every item is too rare.
    """
    log.info(
        "prepare: %d rows kept of %d, about %d users; grouping by user into %d buckets",
        *(survey.counts["kept"], survey.counts["rows"], survey.num_users, num),
    )
    built = build_sequences(
        found,
        events=config.events,
        before=microseconds(run.ds),
        split_time=survey.split_time,
        num=num,
        split=config.split,
        previous_vocab=previous_vocab,
        output=run.storage,
        earlier=earlier,
        keeps_unused=config.events.incremental,
        progress=Progress("prepare", "bucket", interval=config.log_interval).update,
    )
    if not built.counts["items"]:
        raise InputDataError(
            f"{config.events.source}: no item has "
            f"split.min_item_count={config.split.min_item_count} events; lower it or bring more "
            "history"
        )
    return built


def files_to_judge(run: RunDir) -> frozenset[str]:
    """The input files that the newest served night did not list; none on a first night."""
    for entry in beating(standing(read_chain(run.lake), run.ds)):
        try:
            listed = read_manifest(run.lake, entry)["inputs"]
        except FileNotFoundError:
            continue  # pruned
        known = {(file["path"], file["size"], file["version"]) for file in listed}
        return frozenset(file[0] for file in run.inputs if file not in known)
    return frozenset()


def judge_newest(newest: Sequence[Part], config: Config, run: RunDir) -> dict[str, Any]:
    """Warns of the newest days and files with too many bad rows; what the stage records of them."""
    too_bad = check_newest(newest, config.events)
    for part in too_bad:
        log.warning(
            "prepare: %s are bad, more than events.max_bad_fraction=%g of the whole log may be; "
            "look at %s",
            part,
            config.events.max_bad_fraction,
            run.storage.url("quarantine"),
        )
    return recorded(newest, too_bad)


def check_or_record(
    counts: Counter[str],
    config: Config,
    run: RunDir,
    newest: Sequence[Part] = (),
    examples: Mapping[str, object] | None = None,
) -> None:
    """Stops a run whose log is too dirty, and leaves the counts beside the bad rows for people."""
    events = config.events
    try:
        check_counts(
            counts,
            source=events.source,
            max_bad_fraction=events.max_bad_fraction,
            examples=examples or {},
        )
        check_newest(newest, events)
    except InputDataError:
        run.storage.write_bytes(STOPPED, to_json(counts))
        raise


def check_counts(
    counts: Counter[str],
    *,
    source: str,
    max_bad_fraction: float,
    examples: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Stops a run whose log is too dirty, or has no event before the run date.

    Args:
        examples: a bad row, by its reason; as a string in words.
    """
    rows, kept, late = counts["rows"], counts["kept"], counts[AFTER_RUN_DATE]
    bad = num_bad(counts)
    filtered, old = counts[FILTERED], counts[BEFORE_LOOKBACK]
    reasons = Counter({r: n for r, n in counts.items() if r not in ("rows", "kept", *NOT_READ)})
    common = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(3))
    if bad > max_bad_fraction * rows:
        raise InputDataError(
            f"{source}: {bad} of {rows} rows are bad ({common}), more than "
            f"events.max_bad_fraction={max_bad_fraction}"
            + "".join(f"; {r}: {examples[r]}" for r, _ in reasons.most_common(2) if r in examples)
            + "; look at quarantine/ of this run, repair the log or raise it"
        )
    if kept == 0:
        raise InputDataError(
            f"{source}: no event is left of {rows} rows: {late} lie at or after the run "
            f"date, {bad} are bad"
            + f", {filtered} are filtered by events.where or events.types" * bool(filtered)
            + f", {old} lie before events.lookback_days" * bool(old)
            + "; bring a log with events before the run date, and check events.time_unit"
        )


def say_types(counts: Mapping[str, Mapping[str, int]], events: EventsConfig) -> None:
    """Says how many rows of each type are kept and filtered, and warns of types without any.

    Raises:
        ConfigError: no event is of a target type.
    """
    if not events.types:
        return
    for what, found in counts.items():
        if found:
            words = ", ".join(f"{name} {number}" for name, number in found.items())
            log.info("prepare: %s rows by their %s: %s", what, events.type_column, words)
    for absent in check_types(counts, events):
        log.warning("prepare: %s", absent)


def check_split(survey: Survey, source: str) -> None:
    """Stops a run whose events all lie on one side of the split."""
    first, cut, last = survey.first_time, survey.split_time, survey.last_time
    if first == last:
        raise InputDataError(
            f"{source}: all events lie at one instant, {iso(first)}: none is before "
            "a split; bring more history, and check events.time_column and events.time_unit"
        )
    if not first < cut <= last:
        raise ConfigError(
            f"the split time {iso(cut)} leaves nothing on one side of it: the events of "
            f"{source} lie in {iso(first)}..{iso(last)}; change split.time or "
            "split.quantile"
        )
