"""Which run a command is: a digest of everything that its output depends on names the directory."""

import hashlib
import json
import uuid
from datetime import date
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

import diffsasrec
from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.log_files import InputFile, inspect_inputs
from diffsasrec.lake.chain import Entry, read_chain, shown_instead
from diffsasrec.lake.claims import deleted, is_claimed
from diffsasrec.lake.consumer_copy import date_path, shown_parts
from diffsasrec.lake.run_dir import Reused, RunDir
from jobs.night.exclusions import lately_published
from jobs.night.table_copies import digest_tables
from jobs.training.weight_reuse import newest_reusable, published_choices


def open_run(
    config: Config, run_date: date, inputs: list[InputFile], *, run_id: str | None
) -> RunDir:
    """The run directory, named by a digest of everything that the output depends on.

    Raises:
        ConfigError: a table beside the log can't be read.
    """
    lake, tables = Storage.of(config.lake), digest_tables(config)
    ds, source = run_date.isoformat(), source_digest()
    tonight = lately_published(lake, ds, config.score.rest_nights)
    # a run lies in its lake, so that the path of the lake tells no run from another
    values = {name: value for name, value in config.resolved().items() if name != "lake"}
    inputs_of = [(file.path, file.size, file.version) for file in inputs]

    def identity_with(reused: Reused | None, rested: tuple[str, ...]) -> str:
        whose = [] if reused is None else [[reused.ds, reused.run_id]]
        parts = [ds, values, source, inputs_of, tables, rested, *whose]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    takes_some = config.train.every_days > 1 or config.score.rest_nights > 0
    for choice in published_choices(lake, ds) if takes_some else ():
        # a published run stays the same run, whatever has become of the chain since
        reused, rested = choice.reused, tonight if choice.rested is None else choice.rested
        if choice.identity == identity_with(reused, rested):
            break
    else:
        item_type = partial(_item_type, inputs, config)
        reused = newest_reusable(config, lake, ds, source=source, item_type=item_type)
        rested = tonight
    identity = identity_with(reused, rested)
    return RunDir(
        lake=lake,
        ds=ds,
        run_id=run_id or identity[:12],
        identity=identity,
        attempt=uuid.uuid4().hex[:12],
        inputs=tuple(inputs_of),
        reused=reused,
        rested=rested,
        tables=tables,
    )


def _item_type(inputs: list[InputFile], config: Config) -> pa.DataType:
    return inspect_inputs(inputs, config.events).item_type


def source_digest() -> str:
    """The sha256 of our own source files."""
    digest = hashlib.sha256()
    for name, path in sorted(_sources().items()):
        digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _sources() -> dict[PurePath, Path]:
    """Our own source files by their name in a checkout, whichever way they are installed."""
    library, jobs = Path(diffsasrec.__file__).parent, Path(__file__).parents[1]
    found = {
        PurePath(root.name, path.relative_to(root)): path
        for root in (library, jobs)
        for path in root.glob("**/*.py")
    }
    # an installed package has the jobs within the library
    return {name: path for name, path in found.items() if name.parts[:2] != ("diffsasrec", "jobs")}


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
            "whether it was made from this config, code and log is not known; leave --run-id out "
            "or choose a new one"
        )
    if run.record("publish") is None and run.record("score") is None:
        raise ConfigError(
            f"run {run.run_id} of {run.ds} is published, and the config, the code or the inputs "
            "are not those it was made from; leave --run-id out or choose a new one"
        )


def is_known_as_deleted(run: RunDir) -> bool:
    """Whether this very run was published and its directory deleted since, by --keep."""
    if _entry_of(run) is None or run.storage.exists("manifest.json"):
        return False
    known = deleted(run.lake, run.path)
    # earlier versions kept nothing of what they deleted, but for the name in the chain
    return run.run_id == run.identity[:12] if known is None else known["identity"] == run.identity


def published_and_deleted(run: RunDir) -> dict[str, Any] | None:
    """How a published run ends whose directory is gone, for the last line; None for any other."""
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
    files = {info.path: info for info in run.lake.list(date_path(run.ds))}
    if shown_parts(run.lake, entry, files=files, chain=chain) is None:
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
