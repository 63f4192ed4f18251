"""The command line of `jobs.init`."""

import argparse
from collections.abc import Sequence

from ..runner.arguments import new_parser

OUTPUT = "diffsasrec.yaml"


def parse_init(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("init", "Looks at a log, and writes the configuration that fits it.")
    parser.add_argument("path", metavar="PATH", help="file, directory or glob; local or s3://")
    parser.add_argument("--output", default=OUTPUT, metavar="FILE", help=f"default: {OUTPUT}")
    parser.add_argument("--lake", default="lake", help="where lists will lie; default: ./lake")
    parser.add_argument("--force", action="store_true", help="overwrite the file of --output")
    parser.add_argument(
        "--no-dry-run", action="store_true", help="only write the file; check nothing"
    )
    return parser.parse_args(words)
