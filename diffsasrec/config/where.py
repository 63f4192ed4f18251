"""Conditions on the columns of a log, as they are written in a configuration."""

import re
from dataclasses import dataclass

_CONDITION = re.compile(
    r"""\s*(?:`(?P<quoted>[^`]+)`|(?P<column>[^\s<>=!`]+))\s*
    (?P<operator>not\s+in\b|in\b|is\s+not\s+null\b|is\s+null\b|<=|>=|==|!=|<>|=|<|>)
    \s*(?P<rest>.*?)\s*""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_VALUE = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^,"'\[\]()]+?))\s*(?:,|\Z)""")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SAME = {"==": "=", "<>": "!="}
EXAMPLE = "write it as in event_type in [purchase, cart], rating >= 4 or refund is null"

Value = str | int | float


@dataclass(frozen=True)
class Condition:
    """`values`: texts or numbers; one, unless the operator is in or not in; none for is null."""

    column: str
    operator: str  # = != < <= > >= in, not in, is null, is not null
    values: tuple[Value, ...] = ()


def parse_condition(text: str) -> Condition:
    """A condition such as `event_type in [purchase, cart]`.

    A column with blanks in its name stands in `backticks`. A text that looks like a number stands
    in quotes.

    Raises:
        ValueError: it is none; quotes it and shows one.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"events.where: {text!r} is no condition; {EXAMPLE}")
    name = " ".join(found["operator"].lower().split())
    name, rest = _SAME.get(name, name), found["rest"]
    in_brackets = rest[:1] + rest[-1:] in ("[]", "()")
    if name.startswith("is"):
        values: tuple[Value, ...] | None = () if not rest else None
    elif name in ("in", "not in"):
        values = _values(rest[1:-1]) if in_brackets else None
    else:
        values = _values(rest)
        values = values if values is not None and len(values) == 1 else None
    if values is None or (not values and not name.startswith("is")):
        raise ValueError(f"events.where: {text!r} has no value that {name} takes; {EXAMPLE}")
    return Condition(found["quoted"] or found["column"], name, values)


def _values(text: str) -> tuple[Value, ...] | None:
    """The values in a list; None where it is none."""
    values: list[Value] = []
    position = 0
    while position < len(text):
        found = _VALUE.match(text, position)
        if found is None:
            return None
        position = found.end()
        if found[3] is not None and _NUMBER.fullmatch(found[3]):
            is_whole = found[3].lstrip("+-").isdigit()
            values.append(int(found[3]) if is_whole else float(found[3]))
        else:
            values.append(next(each for each in found.groups() if each is not None))
    return tuple(values)
