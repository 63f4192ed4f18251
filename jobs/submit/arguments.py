"""The command line of `jobs.submit`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..runner.arguments import new_parser

LOCAL = "http://127.0.0.1:8265"  # where `ray dashboard` opens its tunnel


def parse_submit(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser(
        "submit",
        "Runs a command as a job of a Ray cluster; the same command is the same job.",
        usage="%(prog)s [options] -- command ...",
    )
    parser.add_argument("--address", type=url, help=f"of the dashboard, default {LOCAL}")
    parser.add_argument(
        "--timeout", type=float, default=float("inf"), help="seconds, then the job is stopped"
    )
    parser.add_argument(
        "--patience", type=float, default=300.0, help="seconds that the head may not answer"
    )
    parser.add_argument("--working-dir", type=Path, default=Path(), help="what travels to the job")
    parser.add_argument(
        "--again", action="store_true", help="run it although it succeeded, as for late events"
    )
    parser.add_argument("command", nargs="+", help="what to run there")
    return parser.parse_args(words)


def url(text: str) -> str:
    if not re.match(r"https?://", text):
        raise argparse.ArgumentTypeError(f"{text}: begin it with http:// or https://")
    return text
