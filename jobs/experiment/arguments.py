"""The command line of `jobs.experiment`."""

import argparse
from collections.abc import Sequence

from ..runner.arguments import add_new_lake, new_parser


def parse_experiment(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("experiment", "Measures variants of the recipe on one split.")
    parser.add_argument("--config", required=True, help="YAML file that the variants start from")
    parser.add_argument("--grid", required=True, help="YAML file: data, seeds, variants")
    add_new_lake(parser)
    return parser.parse_args(words)
