"""The page that a person looks at after a night: report.html of a run, and the index of nights.

    python -m jobs.report --lake LAKE [--date D] [--run-id ID]

Pages are derived from what runs recorded and may be made anew at any time; no stage reads them.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.command import run_command

    run_command("report")

import argparse
import json
import sys

from pydantic import ValidationError

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError, DiffsasrecError, at_the_start
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import REPORT
from jobs.lake_mark import open_lake, require_mark
from jobs.pages.reading import all_nights, identity_of, read_facts
from jobs.pages.render import index_page, night_page

INDEX = "reports/index.html"
INDEX_DATES = 90  # on the page of all nights: a quarter


def write_report(run: RunDir, config: Config | None) -> None:
    """Writes report.html of a run, however far it has come, and the index of nights anew.

    `config`: None where it is not known; that of the manifest is taken then.
    """
    page = night_page(read_facts(run, config))
    run.storage.write_bytes(REPORT, page.encode())
    write_index(run.lake)


def write_index(lake: Storage) -> None:
    nights, chain = list(all_nights(lake, dates=INDEX_DATES)), read_chain(lake)
    current = chain[-1].current if chain else {}
    lake.write_bytes(INDEX, index_page(nights, current, dates=INDEX_DATES).encode())


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


def config_of(run: RunDir) -> Config | None:
    """The config of the manifest; None where there is none, or one of another version."""
    try:
        manifest = json.loads(run.storage.read_bytes("manifest.json"))
        return Config.model_validate(manifest["config"])
    except (FileNotFoundError, ValidationError):
        return None


def main(arguments: argparse.Namespace) -> None:
    try:
        lake = open_lake(arguments.lake)
        require_mark(lake, remedy="a night with --new-lake makes it")
        if arguments.index:
            write_index(lake)
        else:
            run = find_run(lake, arguments.date and arguments.date.isoformat(), arguments.run_id)
            write_report(run, config_of(run))
            print(run.storage.url(REPORT))
        print(lake.url(INDEX))
    except DiffsasrecError as raised:
        error = at_the_start(raised)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
