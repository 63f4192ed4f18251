"""The command line of `jobs.report`."""

import argparse
from collections.abc import Sequence

from ..runner.arguments import day, new_parser, run_id


def parse_report(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("report", "Makes the report of a night from the lake.")
    parser.add_argument("--lake", required=True, help="directory or s3://bucket/prefix")
    parser.add_argument("--date", type=day, help="run date; default: served now")
    parser.add_argument("--run-id", type=run_id, help="default: what the date shows")
    parser.add_argument("--index", action="store_true", help="the index of nights alone")
    return parser.parse_args(words)
