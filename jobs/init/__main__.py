"""Looks at a log, and writes the configuration that fits it; then a dry run of the night.

    python -m jobs.init interactions/

It reads a bounded sample, says per key what it guessed and from which rows, and what it could not
decide.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from ..runner.command import run_command
    from .arguments import parse_init

    run_command(__spec__, parse_init)

import argparse
import os
import shlex
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, DiffsasrecError, at_the_start

from .. import called
from ..observe.summary import printable
from .choosing import Chosen, choose
from .guess import Entry, event_entries, size_lines
from .lists import other_entries
from .newest import run_date
from .questions import undecided
from .writing import configuration


def main(arguments: argparse.Namespace) -> None:
    try:
        look(arguments)
    except BrokenPipeError:  # behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def look(arguments: argparse.Namespace) -> None:
    """Writes the configuration, runs the dry run, and exits with its code."""
    try:
        output = Path(arguments.output)
        refuse_overwriting(output, force=arguments.force)
        chosen = choose(arguments.path)
        text = written(chosen, arguments.path, arguments.lake)
        load_config(text, source=arguments.output)
        write(output, text, force=arguments.force)
    except DiffsasrecError as raised:
        error = at_the_start(raised)
        print(f"{type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    for line in [*size_lines(chosen.log), *questions(chosen), f"{output} is written."]:
        print(printable(line))
    ds = run_date(chosen.log)
    code = 0 if arguments.no_dry_run else dry_run(arguments.output, ds)
    for line in last_lines(arguments, ds, code):
        print(line)
    sys.stdout.flush()
    sys.exit(code)


def refuse_overwriting(output: Path, *, force: bool) -> None:
    """Raises ConfigError if the file is there, and is not to be overwritten."""
    if output.exists() and not force:
        raise ConfigError(
            f"--output {output} is there already; give another --output, or --force to overwrite it"
        )


def write(output: Path, text: str, *, force: bool) -> None:
    """Raises ConfigError if the file can't be written."""
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--output {output} can't be written: {error.strerror}") from None


def written(chosen: Chosen, path: str, lake: str) -> str:
    """The configuration of a log, as YAML."""
    head = [
        f"Written by `{called('init')} {path}`. Every key, its default and its meaning: "
        "docs/configuration.md.",
        *size_lines(chosen.log),
    ]
    left_out = tuple(f"left out: {what}" for what in chosen.left_out)
    entries = [Entry("lake", lake, ("a local directory, or s3://bucket/prefix",))]
    place = "events.table" if chosen.is_delta else "events.path"
    entries.append(Entry(place, chosen.path, left_out))
    if chosen.is_delta:
        entries.append(Entry("events.table_format", "delta", ("the directory has a _delta_log",)))
    if chosen.partition is not None:
        why = "every path has it: partitions at or after the run date are not read"
        entries.append(Entry(*chosen.partition, (why,)))
    found = event_entries(chosen.log) + other_entries(chosen.log)
    entries += [e for e in found if not (chosen.is_delta and e.key == "events.format")]
    return configuration(head, open_questions(chosen), entries)


def questions(chosen: Chosen) -> list[str]:
    """What a person should look at."""
    lines = [f"left out: {what}" for what in chosen.left_out]
    return lines + [f"not decided: {question}" for question in open_questions(chosen)]


def open_questions(chosen: Chosen) -> list[str]:
    joined = [
        f"whether {what} is a part of this log: its files are read with the others"
        for what in chosen.joined
    ]
    return joined + undecided(chosen.log)


def dry_run(config: str, ds: date) -> int:
    """The exit code of a dry run of the night; its last line, for machines, is not shown."""
    print(f"\nDry run of {ds}:", flush=True)
    jobs = called.__module__  # an installed package has the jobs elsewhere
    words = [sys.executable, "-m", f"{jobs}.nightly", *night_words(config, ds), "--dry-run"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if not line.startswith('{"'):
                print(line, end="", flush=True)
    except BrokenPipeError:
        child.kill()
        raise
    return child.wait()


def night_words(config: str, ds: date) -> list[str]:
    return ["--config", config, "--date", str(ds), "--new-lake"]


def last_lines(arguments: argparse.Namespace, ds: date, code: int) -> list[str]:
    """What to call next."""
    night = f"{called('nightly')} {shlex.join(night_words(arguments.output, ds))}"
    lake = shlex.quote(arguments.lake)
    if code:
        return [
            "",
            f"The dry run ended with exit code {code}: the message above names the key. Correct "
            f"{arguments.output}, then:",
            f"  {night} --dry-run",
        ]
    return [
        "",
        f"Look through {arguments.output}. Then the first night, and what it made:",
        f"  {night}",
        f"  {called('show')} --lake {lake} --current",
        f"  {called('report')} --lake {lake}",
    ]
