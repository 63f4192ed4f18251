"""The command lines of the jobs. They import nothing that takes seconds, so that `--help` and wrong
options are answered at once.
"""

import argparse
import re
from collections.abc import Sequence
from datetime import date

from diffsasrec.lake.stages import STAGES

from .. import called

RUN_DATE = "run date YYYY-MM-DD, exclusive: events from its 00:00 UTC on do not exist for the run"


def parse_stages(stages: tuple[str, ...], words: Sequence[str]) -> argparse.Namespace:
    """The command line of a night, or of one stage of it."""
    name = "nightly" if stages == STAGES else stages[0]
    parser = new_parser(name, f"Runs {', '.join(stages)} for one date.")
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--date", type=day, help=RUN_DATE)
    parser.add_argument(
        "--run-id", type=run_id, help="default: a digest of the date, config, code and inputs"
    )
    add_sets(parser)
    parser.add_argument("--print-config", action="store_true", help="print it resolved, and exit")
    parser.add_argument(
        "--dry-run", action="store_true", help="check log, lake and cluster, estimate, and exit"
    )
    add_new_lake(parser)
    parser.add_argument("--future", action="store_true", help="a run date after tomorrow is meant")
    parser.set_defaults(stages=stages, is_night=stages == STAGES, rollback_to=None, keep=None)
    if stages == STAGES:
        parser.add_argument("--stages", type=stage_names, help="only these, as in: score,publish")
    if stages == ("publish",):
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument(
            "--rollback-to", type=int, metavar="N", help="serve again what entry N did, no more"
        )
        instead.add_argument(
            "--keep", type=positive, metavar="N", help="delete all but the newest N runs, no more"
        )
    arguments = parser.parse_args(words)
    of_no_run = "--rollback-to" if arguments.rollback_to is not None else None
    of_no_run = "--keep" if arguments.keep is not None else of_no_run
    if of_no_run and arguments.date is not None:
        parser.error(f"--date: {of_no_run} is about the whole lake and has none; leave it out")
    for option, is_given in (("--dry-run", arguments.dry_run), ("--run-id", arguments.run_id)):
        if of_no_run and is_given:
            parser.error(f"{option}: {of_no_run} acts on the lake at once; leave one of them out")
    if not of_no_run and arguments.date is None:
        parser.error(f"--date is missing: the {RUN_DATE}")
    return arguments


def parse_backfill(words: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("backfill", "Runs the nights of a range of dates.")
    parser.add_argument("--config", required=True, help="YAML file")
    for name, what in (("from", "first"), ("to", "last")):
        parser.add_argument(
            f"--{name}",
            required=True,
            type=day,
            dest=what,
            metavar="DATE",
            help=f"the {what} run date YYYY-MM-DD",
        )
    add_sets(parser)
    add_new_lake(parser)
    parser.add_argument("--future", action="store_true", help="run dates after tomorrow are meant")
    parser.add_argument("--keep-going", action="store_true", help="a failed night ends only itself")
    parser.add_argument(
        "--republish", action="store_true", help="run dates that another run has published, too"
    )
    arguments = parser.parse_args(words)
    if arguments.first > arguments.last:
        parser.error(
            f"--from {arguments.first} is after --to {arguments.last}; give the older date first"
        )
    return arguments


def new_parser(job: str, description: str, usage: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=called(job), description=description, usage=usage)


def add_new_lake(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--new-lake", action="store_true", help="make a local lake that is new")


def add_sets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", dest="sets")


def day(text: str) -> date:
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):  # Python knows more spellings
            return date.fromisoformat(text)
    except ValueError:  # as in 2026-02-30
        pass
    raise argparse.ArgumentTypeError(f"{text}: no date; write it as YYYY-MM-DD")


def positive(text: str) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return int(text)


def run_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text):  # it names a directory and files
        raise argparse.ArgumentTypeError(f"{text}: use letters, digits, '.', '_' and '-' only")
    return text


def stage_names(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := set(names) - set(STAGES):
        raise argparse.ArgumentTypeError(
            f"unknown stages {sorted(unknown)}; known: {','.join(STAGES)}"
        )
    return tuple(stage for stage in STAGES if stage in names)
