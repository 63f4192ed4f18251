"""The command `diffsasrec`: a word for each job, which is the module of jobs/ of that name.

    diffsasrec night --config my.yaml --date 2026-11-23

It answers before anything is imported that takes seconds, and leaves all else to the module.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path
from typing import NoReturn

import diffsasrec

JOBS = __name__.removesuffix(".runner.entry")
SCHEMA = "prints the JSON schema of the configuration, for editors"
COMMANDS = {
    "init": "looks at a log, and writes the configuration that fits it",
    "night": "runs every stage for one date; what is done is skipped",
    "prepare": "the log -> checked events, the split, the vocabulary, sequences",
    "pretrain": "sequences -> weights, by denoising",
    "finetune": "weights -> the measured checkpoint",
    "evaluate": "holdout -> metrics beside baselines, and the gate",
    "refit": "the same recipe on all events -> the serving checkpoint",
    "score": "every user -> a list of items",
    "publish": "audits and publishes the lists; rolls back; deletes old runs",
    "backfill": "runs the nights of a range of dates",
    "submit": "runs a command as a job of a Ray cluster",
    "report": "writes the page of a night anew",
    "show": "shows the list of a user, what is current, or the metrics",
    "experiment": "measures variants of the recipe on one split",
    "benchmark": "measures this machine",
    "schema": SCHEMA,
}


def main() -> None:
    """Runs the command that the words behind `diffsasrec` name, and exits as it does."""
    word, *words = _command(sys.argv[1:])
    if word == "schema":
        argparse.ArgumentParser(prog="diffsasrec schema", description=SCHEMA).parse_args(words)
        print(json.dumps(schema(), indent=2))
        return
    _refuse_another()
    sys.orig_argv = ["diffsasrec", word, *words]  # what messages tell to call again
    sys.argv[1:] = words
    module = "nightly" if word == "night" else word
    runpy.run_module(f"{JOBS}.{module}", run_name="__main__")


def schema() -> dict[str, object]:
    """The JSON schema of a configuration file."""
    from diffsasrec.config.config import Config

    return Config.model_json_schema()


def _command(words: list[str]) -> list[str]:
    """The words behind `diffsasrec`, the first of which is one of ours; --help and such exit."""
    parser = argparse.ArgumentParser(
        prog="diffsasrec",
        usage="%(prog)s [--help] [--version] COMMAND ...",
        description="Recommendations, made anew every night. Each command has its own --help.",
        epilog="commands:\n" + "\n".join(f"  {name:10}  {COMMANDS[name]}" for name in COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version, and exit")
    parser.add_argument("command", nargs="?", choices=COMMANDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words[:1])
    if arguments.version:
        from importlib.metadata import version

        print(f"diffsasrec {version('diffsasrec')}")
        sys.exit(0)
    if arguments.command is None:
        parser.error("give a command; --help lists them")
    return words


def _refuse_another() -> None:
    """Ray's workers find modules in the directory of the command first: none of another version."""
    here = Path("diffsasrec").resolve()
    if (here / "__init__.py").is_file() and here != Path(diffsasrec.__file__).resolve().parent:
        _end(
            f"{here} is another copy of this package than the command's own, and Ray's workers "
            "would take it; go to another directory, or call python -m jobs.nightly here"
        )


def _end(text: str) -> NoReturn:
    print(f"diffsasrec: error: {text}", file=sys.stderr)
    sys.exit(2)
