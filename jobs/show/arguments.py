"""The command line of `jobs.show`."""

import argparse
from collections.abc import Sequence

from ..runner.arguments import day, new_parser, positive, run_id


def parse_show(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("show", "Shows what a lake holds.")
    parser.add_argument("--lake", required=True, help="local directory or s3://bucket/prefix")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--user", metavar="ID", help="history, list, and how the list was filled")
    what.add_argument("--item", metavar="ID", help="neighbours, and where it is trending")
    what.add_argument("--current", action="store_true", help="what is published now")
    what.add_argument(
        "--metrics", action="store_true", help="metrics.prom of the newest run date, as it is"
    )
    parser.add_argument(
        "--date", type=day, help="of a user or item: run date; default: what is current"
    )
    parser.add_argument(
        "--run-id",
        type=run_id,
        metavar="ID",
        help="of a user or item: default: what the date shows",
    )
    parser.add_argument(
        "--last", type=positive, default=10, metavar="N", help="with --user: events that are shown"
    )
    return parser.parse_args(words)
