"""Takes over what an earlier night has read, while nothing may delete it."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import inspect_inputs
from diffsasrec.lake.claims import claimed
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.read_log.earlier import (
    HOURS,
    USERS,
    Earlier,
    NotAsPublishedError,
    write_files,
    write_fragments,
)
from diffsasrec.read_log.log import Log
from diffsasrec.sequences.split_time import Survey
from diffsasrec.times import microseconds

from .choosing import Known, NotTaken, choose, known_heads, known_of, newest_entry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taking:
    """What a night takes over. Nothing: all of the log is read, for the reason if there is one."""

    known: Known | None = None
    earlier: Earlier | None = None
    why_not: str | None = None

    def inspect(self, config: Config, run: RunDir) -> tuple["Taking", Log]:
        """What is taken over of tonight's log, and the log; raises as `inspect_inputs`."""
        inputs = [InputFile(*entry) for entry in run.inputs]  # as the run id was made from them
        if self.known is None:
            return self, inspect_inputs(inputs, config.events)
        heads = known_heads(self.known, inputs)
        found = inspect_inputs(inputs, config.events, known=heads)
        try:
            before = microseconds(run.ds)
            earlier = choose(config.events, self.known, inputs, found, before=before)
        except NotTaken as reason:
            return Taking(why_not=str(reason)), found
        return replace(self, earlier=earlier), replace(found, unread=earlier.unread)

    def for_buckets(self, num: int, found: Log) -> tuple["Taking", Log]:
        """The same, or nothing where an earlier night had another number of buckets."""
        if self.earlier is None or self.earlier.run.num_buckets == num:
            return self, found
        run = self.earlier.run
        why = f"tonight has {num} buckets of users, {run} has {run.num_buckets}"
        return Taking(why_not=why), replace(found, unread=None)

    def recorded(self, found: Log, num_rows: int) -> dict[str, Any] | None:
        """What the stage records; `num_rows`: of the whole log."""
        if self.earlier is None:
            return None if self.why_not is None else {"why_not": self.why_not}
        run, fragments = self.earlier.run, found.fragments
        again = {fragments[number].path for number in self.earlier.unread.again}
        taken = {fragments[number].path for number in self.earlier.numbers} - again
        read = {fragments[number].path for number in self.earlier.unread.numbers} - again
        rows = self.earlier.counts["rows"]
        return {
            "ds": run.ds,
            "run_id": run.run_id,
            "files": len(taken),
            "rows": rows,
            "new_files": len(read),
            "files_read_again": len(again),
            "rows_read": num_rows - rows,
        }

    def say(self, found: Log) -> None:
        """Says which files are read."""
        if (recorded := self.recorded(found, 0)) is not None:
            log.info("prepare: %s", in_words(recorded))


def in_words(recorded: dict[str, Any]) -> str:
    """What a night takes over; `recorded`: as by `Taking`."""
    if "why_not" in recorded:
        return f"events.incremental: the whole log is read: {recorded['why_not']}"
    again = recorded["files_read_again"]
    return (
        f"{recorded['files']} files with {recorded['rows']} rows are taken over from run "
        f"{recorded['run_id']} of {recorded['ds']}; {recorded['new_files']} new files are read"
        + f", and {again} others again, in which other rows count tonight"
        * bool(again)
    )


@contextmanager
def takeover(config: Config, run: RunDir, *, source: str) -> Iterator[Taking]:
    """What a night may take over; the run that it comes from is not deleted meanwhile.

    Args:
        source: the sha256 of our own source files.
    """
    with ExitStack() as stack:
        try:
            taking = (
                Taking(_claimed(config, run, source, stack))
                if config.events.incremental
                else Taking()
            )
        except (NotTaken, NotAsPublishedError) as reason:
            taking = Taking(why_not=str(reason))
        yield taking


def _claimed(config: Config, run: RunDir, source: str, stack: ExitStack) -> Known:
    entry, manifest = newest_entry(config, run, source=source)
    path = run_path(entry.ds, entry.run_id)
    try:
        stack.enter_context(claimed(run.lake, [path], attempt=run.attempt, by="prepare"))
    except ConfigError as error:
        raise NotTaken(str(error)) from None
    return known_of(run, entry, manifest)


def keep_for_later(run: RunDir, found: Log, survey: Survey) -> None:
    """Writes what a later night needs beside the sequences, the files last."""
    run.storage.write_table(HOURS, survey.hours)
    run.storage.write_table(USERS, pa.table({"hash": pa.array(survey.users)}))
    write_fragments(run.storage, survey.fragments)
    write_files(run.storage, found, [InputFile(*entry) for entry in run.inputs])
