"""The configuration as text: each key with what was guessed, and from which rows."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from ..observe.summary import printable
from .guess import Entry

WIDTH = 96


def configuration(
    lines: Sequence[str], open_questions: Sequence[str], entries: Sequence[Entry]
) -> str:
    """A YAML file.

    Args:
        lines: how it came about, for its head.
        open_questions: what the sample could not tell.
        entries: in order; those of a section follow each other.
    """
    parts = [*_comment(lines, "")]
    if open_questions:
        parts += ["#", "# NOT DECIDED by the log; look at these:"]
        for question in open_questions:
            parts += textwrap.wrap(
                printable(question), WIDTH, initial_indent="#   - ", subsequent_indent="#     "
            )
    section = None
    for entry in entries:
        above, _, name = entry.key.rpartition(".")
        if above != section:
            parts.append("")
            parts += [f"{above}:"] if above else []
            section = above
        parts += _entry(entry, name, "  " if above else "")
    return "\n".join(parts) + "\n"


def _entry(entry: Entry, name: str, indent: str) -> Iterator[str]:
    yield from _comment(entry.why, indent)
    mark = "" if entry.is_set else "# "
    yield f"{indent}{mark}{name}: {in_yaml(entry.value)}"
    for value, why in entry.choices:
        yield f"{indent}# {name}: {in_yaml(value)}    # {printable(why)}"


def _comment(lines: Iterable[str], indent: str) -> list[str]:
    start = f"{indent}# "
    wrapped = [
        textwrap.wrap(printable(line), WIDTH, initial_indent=start, subsequent_indent=start)
        for line in lines
    ]
    return [line for some in wrapped for line in some]


def in_yaml(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
