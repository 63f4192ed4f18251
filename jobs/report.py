"""The page that a person looks at after a night: report.html of a run, and the index of nights.

    python -m jobs.report --lake LAKE [--date D] [--run-id ID]

Pages are derived from what runs recorded and may be made anew at any time; no stage reads them.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from jobs.runner.command import run_command

    run_command("report")

import argparse
import sys

from diffsasrec.config.config import Config
from diffsasrec.errors import DiffsasrecError, at_the_start
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import REPORT
from jobs.night.published_runs import config_if_known, find_run
from jobs.pages.reading import all_nights, read_facts
from jobs.pages.render import index_page, night_page
from jobs.runner.lake_mark import open_lake, require_mark

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


def main(arguments: argparse.Namespace) -> None:
    try:
        lake = open_lake(arguments.lake)
        require_mark(lake, remedy="a night with --new-lake makes it")
        if arguments.index:
            write_index(lake)
        else:
            run = find_run(lake, arguments.date and arguments.date.isoformat(), arguments.run_id)
            write_report(run, config_if_known(run))
            print(run.storage.url(REPORT))
        print(lake.url(INDEX))
    except DiffsasrecError as raised:
        error = at_the_start(raised)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
