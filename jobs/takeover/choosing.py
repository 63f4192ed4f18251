"""Which earlier night a night takes its log over from (events.incremental), or why none.

Nothing of it belongs to the identity of a run: what is taken over comes to the same bytes as what
is read again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.config.data import EventsConfig
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.events import start_of
from diffsasrec.inputs.log_files import inspect_inputs
from diffsasrec.inputs.row_checks import AFTER_RUN_DATE
from diffsasrec.lake.chain import Entry, read_chain, standing
from diffsasrec.lake.manifest import read_manifest
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.progress import beating
from diffsasrec.read_log.earlier import (
    FILES,
    CountedFragment,
    Earlier,
    EarlierRun,
    read_files,
    read_fragments,
)
from diffsasrec.read_log.log import Head, Log, Unread
from diffsasrec.schema import canonical_type
from diffsasrec.times import microseconds

# Keys of the section events that change no row that a night keeps.
BESIDE_THE_ROWS = {
    "incremental",
    "max_bad_fraction",
    "max_bad_fraction_of_newest",
    "min_rows_of_newest",
    "table_version",
}


class NotTaken(Exception):
    """Why nothing is taken over, in words."""


@dataclass(frozen=True)
class Known:
    """An earlier night whose rows serve, as far as its manifest and the listings tell."""

    run: EarlierRun
    files: list[InputFile]  # as they were listed then
    heads: dict[str, Head]  # of these, by the path
    fragments: list[CountedFragment]  # in their order

    def unchanged(self, inputs: list[InputFile]) -> set[str]:
        """The paths of those of tonight's files that it has read."""
        return {file.path for file in set(inputs) & set(self.files)}


def newest_entry(config: Config, run: RunDir, *, source: str) -> tuple[Entry, dict[str, Any]]:
    """The newest night that stands before this one and is still there, with its manifest.

    Args:
        source: the sha256 of our own source files.

    Raises:
        NotTaken: there is none, or its rows are not those that this night would read.
    """
    if config.events.table is not None:
        raise NotTaken("a table is always read whole")
    for entry in beating(standing(read_chain(run.lake), run.ds)):
        try:
            manifest = read_manifest(run.lake, entry)
        except FileNotFoundError:
            continue  # pruned
        who = f"run {entry.run_id} of {entry.ds}"
        if manifest["source_sha256"] != source:
            raise NotTaken(f"{who} was made by other code")
        if changed := list(_differing(config.resolved(), manifest["config"])):
            raise NotTaken(f"{who} has another {', '.join(changed)}")
        if not any(file["path"] == FILES for file in manifest["files"]):
            raise NotTaken(f"{who} kept nothing for later nights: events.incremental was false")
        return entry, manifest
    raise NotTaken("no earlier night is published, or --keep has deleted them all")


def _differing(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """The keys with other values by which an earlier night has kept other rows."""
    names = sorted({*mine["events"], *theirs["events"]} - BESIDE_THE_ROWS)
    for name in names:
        if mine["events"].get(name) != theirs["events"].get(name):
            yield f"events.{name}"
    if mine["split"]["max_user_events"] != theirs["split"]["max_user_events"]:
        yield "split.max_user_events"


def known_of(run: RunDir, entry: Entry, manifest: Mapping[str, Any]) -> Known:
    """What the run of an entry has kept of the log."""
    earlier = EarlierRun(
        entry.ds,
        entry.run_id,
        run.lake.sub(run_path(entry.ds, entry.run_id)),
        {file["path"]: file["sha256"] for file in manifest["files"]},
        num_buckets=sum(f["path"].startswith("sequences/") for f in manifest["files"]),
        before=microseconds(entry.ds),
    )
    return Known(earlier, *read_files(earlier), read_fragments(earlier))


def known_heads(known: Known, inputs: list[InputFile]) -> dict[str, Head]:
    """The heads of tonight's files that need not be opened."""
    return {path: known.heads[path] for path in known.unchanged(inputs)}


def choose(
    events: EventsConfig, known: Known, inputs: list[InputFile], found: Log, *, before: int
) -> Earlier:
    """What is taken over, and what of the log is left to read.

    Args:
        found: tonight's log.
        before: the run date, microseconds.

    Raises:
        NotTaken: the earlier night has read the log otherwise, or files that are no more.
    """
    unchanged, after = known.unchanged(inputs), start_of(events, before)
    _check_files(known, {file.path for file in inputs}, unchanged, after)
    _check_types(inspect_inputs(known.files, events, known=known.heads), found, known)
    then = {(each.path, each.row_group): n for n, each in enumerate(known.fragments)}
    numbers = {
        number: then[fragment.path, fragment.row_group]
        for number, fragment in enumerate(found.fragments)
        if fragment.path in unchanged
    }
    again = {n for n, old in numbers.items() if _to_read_again(known.fragments[old], after)}
    new = set(range(len(found.fragments))) - numbers.keys()
    taken = {new: old for new, old in numbers.items() if new not in again}
    is_cut = after is not None and any(
        each.first_time is not None and each.first_time < after for each in known.fragments
    )
    return Earlier(
        known.run,
        Unread(tuple(sorted(new | again)), frozenset(again), known.run.before),
        {number: known.fragments[old] for number, old in taken.items()},
        taken,
        after if is_cut else None,
    )


def _check_files(known: Known, tonight: set[str], unchanged: set[str], after: int | None) -> None:
    """Raises NotTaken if a row that was kept may be no more."""
    changed = [f.path for f in known.files if f.path in tonight and f.path not in unchanged]
    if changed:
        raise NotTaken(f"{_some(changed)} changed since {known.run}")
    gone = {
        each.path
        for each in known.fragments
        if each.path not in tonight
        and each.last_time is not None
        and (after is None or each.last_time >= after)
    }
    if gone:
        raise NotTaken(f"{_some(sorted(gone))} read by {known.run} is gone")


def _some(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]}, one of {len(paths)} files,"


def _check_types(then: Log, found: Log, known: Known) -> None:
    """Raises NotTaken if ids are read otherwise than on the earlier night."""
    for name, before, now in zip(("user", "item"), then.id_types, found.id_types, strict=True):
        if canonical_type(before) != canonical_type(now):
            raise NotTaken(f"the {name} ids are {now} tonight, and {before} in {known.run}")
    if then.fragments[0].integral != found.fragments[0].integral:
        raise NotTaken(f"ids such as 17850.0 are read otherwise than in {known.run}")


def _to_read_again(fragment: CountedFragment, after: int | None) -> bool:
    """Whether tonight other rows of a fragment are kept, or other ones are counted.

    Rows that were too new are kept now. Rows that are too old now are counted otherwise, and a row
    group without any other is not even read: its bad rows leave.
    """
    if fragment.counts[AFTER_RUN_DATE]:
        return True
    return after is not None and (fragment.first_time is None or fragment.first_time < after)
