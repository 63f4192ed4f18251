"""The identity of a run: a digest of everything that its output depends on."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

import diffsasrec
from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.formats.listing import InputFile, LeftOut
from diffsasrec.inputs.log_files import inspect_inputs
from diffsasrec.lake.chain import Entry, read_chain, shown_instead
from diffsasrec.lake.claims import deleted, is_claimed
from diffsasrec.lake.consumer_copy import date_path, names_of, shown_parts
from diffsasrec.lake.run_dir import Reused, RunDir

from ..night.exclusions import lately_published
from ..night.table_copies import digest_tables
from ..training.weight_reuse import Choice, newest_reusable, published_choices


def open_run(
    config: Config,
    run_date: date,
    inputs: list[InputFile],
    *,
    run_id: str | None,
    left_out: Iterable[LeftOut] = (),
) -> RunDir:
    """The run directory, named by a digest of everything that the output depends on.

    Args:
        left_out: what was listed and is not read; no output depends on it.

    Raises:
        ConfigError: a table beside the log can't be read.
    """
    lake, ds = Storage.of(config.lake), run_date.isoformat()
    listing = tuple((file.path, file.size, file.version) for file in inputs)
    tables = digest_tables(config)
    # a run lies in its lake, so that the path of the lake tells no run from another
    values = {name: value for name, value in config.resolved().items() if name != "lake"}
    # what is taken over from an earlier night comes to the same bytes as what is read
    values["events"] = {k: v for k, v in values["events"].items() if k != "incremental"}
    source = source_digest()
    parts = [ds, values, source, listing, tables]
    item_type = partial(_item_type, inputs, config)
    taken = taken_over(config, lake, ds, parts, source=source, item_type=item_type)
    return RunDir(
        lake=lake,
        ds=ds,
        run_id=run_id or taken.identity[:12],
        identity=taken.identity,
        attempt=uuid.uuid4().hex[:12],
        inputs=listing,
        left_out=tuple((each.reason, each.number, each.example) for each in left_out),
        reused=taken.reused,
        rested=taken.rested or (),
        tables=tables,
    )


def taken_over(
    config: Config,
    lake: Storage,
    ds: str,
    parts: list[Any],
    *,
    source: str,
    item_type: Callable[[], pa.DataType],
) -> Choice:
    """What a run takes from earlier nights: weights, and lists that are not shown again.

    Args:
        parts: of the identity, all that does not come from earlier nights.
        source: the sha256 of our own source files.
        item_type: of the ids of tonight's log; asked for where weights might serve.
    """
    tonight = lately_published(lake, ds, config.score.rest_nights)
    takes_some = config.train.every_days > 1 or config.score.rest_nights > 0
    for choice in published_choices(lake, ds) if takes_some else ():
        # a published run stays the same run, however the chain has changed since
        rested = tonight if choice.rested is None else choice.rested
        if choice.identity == digest_of(parts, rested, choice.reused):
            return Choice(choice.reused, rested, choice.identity)
    reused = newest_reusable(config, lake, ds, source=source, item_type=item_type)
    return Choice(reused, tonight, digest_of(parts, tonight, reused))


def digest_of(parts: list[Any], rested: tuple[str, ...], reused: Reused | None) -> str:
    whose = [] if reused is None else [[reused.ds, reused.run_id]]
    text = json.dumps([*parts, rested, *whose], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _item_type(inputs: list[InputFile], config: Config) -> pa.DataType:
    return inspect_inputs(inputs, config.events).item_type


def source_digest() -> str:
    """The sha256 of our own source files that make lists: a changed chart is not another night."""
    digest = hashlib.sha256()
    for name, path in sorted(sources_of_lists().items()):
        digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# wings for people, for machines that watch, and for tries: no list depends on them
MAKES_NO_LIST = frozenset(
    {
        "benchmark",
        "experiment",
        "faults",
        "init",
        "observe",
        "planning",
        "report",
        "schedules",
        "show",
        "submit",
    }
)


def sources_of_lists() -> dict[PurePath, Path]:
    """Our own source files by their name in a checkout, whichever way they are installed."""
    library, jobs = Path(diffsasrec.__file__).parent, Path(__file__).parents[1]
    found = {
        PurePath(root.name, path.relative_to(root)): path
        for root in (library, jobs)
        for path in root.glob("**/*.py")
    }
    # an installed package has the jobs within the library
    no_list = {("diffsasrec", "jobs"), *(("jobs", wing) for wing in MAKES_NO_LIST)}
    return {name: path for name, path in found.items() if name.parts[:2] not in no_list}


def refuse_taken(run: RunDir) -> None:
    """Refuses to clear a run directory that another command has published, or is publishing.

    Raises:
        ConfigError: the two have one run id and are not the same.
    """
    if _entry_of(run) is not None or is_claimed(run.lake, run.path):
        raise ConfigError(
            f"run {run.run_id} of {run.ds} was published meanwhile by another command of this run "
            "id, from another config, code or log; leave --run-id out or choose a new one"
        )


def refuse_changed(run: RunDir) -> None:
    """A published run directory is immutable: another config or input needs another run id.

    Raises:
        ConfigError: the run is published, and is not what this command would make.
    """
    entry = _entry_of(run)
    if entry is None or is_known_as_deleted(run):
        return
    if not run.storage.exists("manifest.json"):
        raise ConfigError(
            f"run {run.run_id} of {run.ds} is published, and its directory was deleted since; "
            "nobody can tell whether it was made from this config, code and log; leave --run-id "
            "out or choose a new one"
        )
    if run.record("publish") is None and run.record("score") is None:
        raise ConfigError(
            f"run {run.run_id} of {run.ds} is published, and the config, the code or the inputs "
            "are not those it was made from; leave --run-id out or choose a new one"
        )


def is_known_as_deleted(run: RunDir) -> bool:
    """Whether --keep has deleted the directory of this very run after it was published."""
    if _entry_of(run) is None or run.storage.exists("manifest.json"):
        return False
    known = deleted(run.lake, run.path)
    # earlier versions kept only the name in the chain of what they deleted
    return run.run_id == run.identity[:12] if known is None else known["identity"] == run.identity


def published_and_deleted(run: RunDir) -> dict[str, Any] | None:
    """The last line of a published run whose directory is gone; None for any other run."""
    entry = _entry_of(run)
    if entry is None or not is_known_as_deleted(run):
        return None
    chain = read_chain(run.lake)
    note = f"run {run.run_id} is published as entry {entry.number}, and --keep has deleted its "
    note += "directory since; there is nothing to do"
    found = {"counts": {"publish": {"chain_number": entry.number}}, "current": chain[-1].current}
    if (other := shown_instead(run.lake, run)) is not None:
        note += f"; {run.ds} shows run {other.run_id} since entry {other.number}"
        return {**found, "status": "superseded", "note": note}
    if shown_parts(run.lake, entry, names_of(run.lake, run.ds), chain=chain) is None:
        raise ConfigError(
            f"run {run.run_id} of {run.ds} is published, its directory was deleted, and "
            f"{run.lake.url(date_path(run.ds))} has lost files since; make it again under another "
            "--run-id"
        )
    return {**found, "status": "done", "note": note}


def _entry_of(run: RunDir) -> Entry | None:
    """The newest entry that names a run; None when it is not published."""
    entries = [e for e in read_chain(run.lake) if (e.ds, e.run_id) == (run.ds, run.run_id)]
    return entries[-1] if entries else None
