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
from diffsasrec.storage import Storage, resolve_package, stat_files
from jobs.exclude import lately_published
from jobs.reuse import choose


def open_run(
    config: Config, run_date: date, inputs: list[InputFile], *, run_id: str | None
) -> RunDir:
    """The run directory, named by a digest of everything that the output depends on."""
    lake, score = Storage.of(config.lake), config.score
    side_inputs = [score.deny_path, score.allow_path, score.exclude_path]
    side_inputs += [config.vocab.previous_path]
    if config.items.path is not None:
        side_inputs.append(resolve_package(config.items.path, "items.path"))
    listing = [info for path in side_inputs if path is not None for info in stat_files(path)]
    ds, source = run_date.isoformat(), source_digest()
    # a run lies in its lake, so that the path of the lake tells no run from another
    values = {name: value for name, value in config.resolved().items() if name != "lake"}
    parts = [
        ds,
        values,
        source,
        [(file.path, file.size, file.version) for file in inputs],
        listing,
        lately_published(lake, ds, score.rest_nights),
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
