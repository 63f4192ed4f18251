"""The page that a person looks at after a night: report.html of a run, and the index of nights.

    python -m jobs.report --lake LAKE [--date D] [--run-id ID]

Pages are derived from what runs recorded and may be made anew at any time; no stage reads them.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from ..runner.command import run_command
    from .arguments import parse_report

    run_command(__spec__, parse_report)

import argparse
import sys

from diffsasrec.errors import DiffsasrecError, at_the_start
from diffsasrec.lake.stages import REPORT

from ..runner.lake_mark import open_lake, require_mark
from ..runs.published_runs import config_if_known, find_run
from .pages import INDEX, write_index, write_report


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
