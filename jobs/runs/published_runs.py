"""Finds runs of a lake: by date, by id, or what is served."""

import json
from datetime import date
from typing import Any

from pydantic import ValidationError

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.lake.chain import NAME, Entry, newest_by_date, read_chain
from diffsasrec.lake.run_dir import RunDir, run_path
from diffsasrec.lake.stages import STAGES


def find_run(lake: Storage, ds: str | None, run_id: str | None) -> RunDir:
    """The run that a command line names: what is served now, what a date shows, or that very run.

    Raises:
        ConfigError: there is none, or there are several.
    """
    chain = read_chain(lake)
    if ds is None:
        if run_id is not None:
            raise ConfigError(f"--run-id {run_id}: give its --date as well")
        if not chain:
            raise ConfigError(f"nothing is published in {lake.root}; give --date and --run-id")
        ds, run_id = chain[-1].current["ds"], chain[-1].current["run_id"]
    known = lake.directories(f"runs/ds={ds}")
    if run_id is None:
        shown = [entry.run_id for entry in chain if entry.ds == ds][-1:] or known
        if len(shown) > 1:
            raise ConfigError(f"--date {ds} has several runs; give --run-id, one of {list(known)}")
        run_id = shown[0] if shown else None
    if run_id is None or run_id not in known:
        raise ConfigError(f"{lake.url(f'runs/ds={ds}')} has no run {run_id or 'at all'}")
    identity = identity_of(lake.sub(f"runs/ds={ds}/{run_id}"))
    return RunDir(lake, ds=ds, run_id=run_id, identity=identity, attempt="report")


def config_if_known(run: RunDir) -> Config | None:
    """The config of the manifest; None where there is none, or one of another version."""
    try:
        manifest = json.loads(run.storage.read_bytes("manifest.json"))
        return Config.model_validate(manifest["config"])
    except (FileNotFoundError, ValidationError):
        return None


def identity_of(run: Storage) -> str:
    """The identity of what lies in a run directory; "" where no stage has begun."""
    begun = read_json(run, f"_stages/{STAGES[0]}.begun.json") or {}
    return str(begun.get("identity", ""))


def read_json(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        return None
    return found


def open_published(
    lake: Storage, ds: date | None, run_id: str | None
) -> tuple[RunDir, dict[str, Any]]:
    """A published run and its manifest: the named one, what the date shows, or what is current.

    Raises:
        ConfigError: there is none.
        InfrastructureError: the manifest was changed after publishing.
    """
    chain = read_chain(lake)
    entry = entry_of(lake, chain, None if ds is None else ds.isoformat(), run_id)
    run = lake.sub(run_path(entry.ds, entry.run_id))
    try:
        data = run.read_bytes("manifest.json")
    except FileNotFoundError:
        raise ConfigError(f"{run.root} has no manifest.json: it was pruned") from None
    if sha256(data) != entry.manifest_sha256:
        raise InfrastructureError(
            f"{run.root}/manifest.json is not the one that chain entry {entry.number} names "
            "(sha256); the run directory was changed after publishing"
        )
    manifest = json.loads(data)
    return RunDir(lake, entry.ds, entry.run_id, manifest["identity"], ""), manifest


def entry_of(lake: Storage, chain: list[Entry], ds: str | None, run_id: str | None) -> Entry:
    if not chain:
        raise ConfigError(f"--lake {lake.root}: nothing is published there")
    if ds is None and run_id is None:
        ds, run_id = chain[-1].current["ds"], chain[-1].current["run_id"]
    if run_id is None:
        shown = newest_by_date(chain)
        if ds not in shown:
            raise ConfigError(
                f"--date {ds}: nothing is published for it; the newest are "
                f"{', '.join(sorted(shown)[-5:])}"
            )
        return shown[ds]
    found = [e for e in chain if e.run_id == run_id and ds in (None, e.ds)]
    if not found or not NAME.fullmatch(run_id):
        of_date = "" if ds is None else f" of {ds}"
        raise ConfigError(f"--run-id {run_id}: no run{of_date} of this name was published")
    return found[-1]


def config_of(manifest: dict[str, Any]) -> Config:
    """The config that the run was made with; keys that came later have their defaults.

    Raises:
        ConfigError: another version made it, with keys that are no more.
    """
    try:
        return load_config(json.dumps(manifest["config"]), source="manifest.json")
    except ConfigError as error:
        raise ConfigError(
            f"run {manifest['run_id']} was made by another version; show it with that one ({error})"
        ) from None


def metrics_of(run: Storage) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The metrics of a published run, and the run that it cites them from; None: they are its own.

    Raises:
        FileNotFoundError: the run is gone.
    """
    try:
        return json.loads(run.read_bytes("metrics.json")), None
    except FileNotFoundError:
        cited = json.loads(run.read_bytes("manifest.json")).get("reused")
        if cited is None:
            raise
        return cited["metrics"], cited
