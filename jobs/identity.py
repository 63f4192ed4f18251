"""Which run a command is: a digest of everything that its output depends on names the directory."""

import hashlib
import json
import uuid
from datetime import date
from pathlib import Path

from diffsasrec.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.inputs import InputFile
from diffsasrec.publish import read_chain
from diffsasrec.rundir import Reused, RunDir
from diffsasrec.storage import Storage
from jobs.exclude import lately_published
from jobs.reuse import choose
from jobs.side_tables import digest_tables


def open_run(
    config: Config, run_date: date, inputs: list[InputFile], *, run_id: str | None
) -> RunDir:
    """The run directory, named by a digest of everything that the output depends on.

    Raises:
        ConfigError: a table beside the log can't be read.
    """
    lake, tables = Storage.of(config.lake), digest_tables(config)
    ds, source = run_date.isoformat(), source_digest()
    parts = [
        ds,
        config.resolved(),
        source,
        [(file.path, file.size, file.version) for file in inputs],
        tables,
        lately_published(lake, ds, config.score.rest_nights),
    ]

    def identity_with(reused: Reused | None) -> str:
        whose = [] if reused is None else [[reused.ds, reused.run_id]]
        return hashlib.sha256(json.dumps(parts + whose, sort_keys=True).encode()).hexdigest()

    reused = choose(config, lake, ds, source=source, identity_with=identity_with)
    identity = identity_with(reused)
    return RunDir(
        lake=lake,
        ds=ds,
        run_id=run_id or identity[:12],
        identity=identity,
        attempt=uuid.uuid4().hex[:12],
        inputs=tuple((file.path, file.size, file.version) for file in inputs),
        reused=reused,
        tables=tables,
    )


def source_digest() -> str:
    """The sha256 of our own source files."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("diffsasrec/*.py"), *root.glob("jobs/*.py")]):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def refuse_changed(run: RunDir) -> None:
    """A published run directory is immutable: another config or input needs another run id."""
    published = any((e.ds, e.run_id) == (run.ds, run.run_id) for e in read_chain(run.lake))
    if published and run.record("publish") is None and run.record("score") is None:
        raise ConfigError(
            f"run {run.run_id} of {run.ds} is published, and the config, the code or the inputs "
            "are not those it was made from; leave --run-id out or choose a new one"
        )
