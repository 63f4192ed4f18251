"""How a column writes times: as integers of a unit, as ISO texts, or in a format of strptime."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from diffsasrec.inputs.moments import read_times
from diffsasrec.month_names import in_english

from .time_values import PER_UNIT, is_plausible, parse_format

SAMPLED = 10_000  # values that are parsed
MOST_SHAPES = 3  # of texts: more are not one writer's times
GOOD = 0.5  # of the values are times: else the column holds none
ISO = re.compile(
    r"(?:\d{4}-\d\d-\d\d(?:[T ]\d\d:?\d\d(?::?\d\d(?:[.,]\d+)?)?)?|\d{8}T\d{6}(?:\.\d+)?)"
    r" ?(?:Z|[+-]\d\d:?\d\d)?"
)
DIGITS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
INTEGER = re.compile(r"-?\d+")
WORD = re.compile(r"[^\W\d_]{3}")
FLOAT = re.compile(r"-?\d+\.\d+(?:[eE]\+?\d+)?|-?\d+[eE]\+?\d+")


@dataclass(frozen=True)
class TimeGuess:
    """How the values of a column become times.

    At most one of `unit` and `formats` is set; neither for timestamps and ISO texts.
    """

    times: npt.NDArray[np.int64]  # microseconds, one per value of the column that was parsed
    places: npt.NDArray[np.int64]  # of these values in the column
    sampled: int  # values that were tried
    unit: str | None = None
    formats: tuple[str, ...] = ()
    other_formats: tuple[str, ...] = ()  # explain the values as well
    is_float: bool = False
    has_clock: bool = True  # not dates alone

    @property
    def share(self) -> float:
        return len(self.times) / max(self.sampled, 1)

    def in_words(self) -> str:
        if self.formats:
            return " or ".join(self.formats)
        if self.unit is not None:
            kind = "numbers with a fraction" if self.is_float else "whole numbers"
            return f"{kind} of {self.unit} since 1970"
        return "dates and times of ISO 8601"


def guess_times(column: pa.ChunkedArray) -> TimeGuess | None:
    """How a column writes times; None where less than half of a sample are times."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    places = np.flatnonzero(np.asarray(column.is_valid()))
    step = max(1, -(-len(places) // SAMPLED))
    places = places[::step]
    if not len(places):
        return None
    guess = _guess(column.take(pa.array(places)), places)
    return guess if guess is not None and guess.share >= GOOD else None


def _guess(values: pa.Array, places: npt.NDArray[np.int64]) -> TimeGuess | None:
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        clock = pa.types.is_timestamp(kind)
        return TimeGuess(times.to_numpy(), places, len(places), has_clock=clock)
    if pa.types.is_integer(kind):
        return _of_numbers(values.to_numpy().astype(object), places, len(places), is_float=False)
    if pa.types.is_floating(kind):
        return _of_numbers(values.to_numpy().astype(object), places, len(places), is_float=True)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_texts([text.strip() for text in values.to_pylist()], places)
    return None


def _of_numbers(
    numbers: npt.NDArray[Any], places: npt.NDArray[np.int64], sampled: int, *, is_float: bool
) -> TimeGuess | None:
    """Numbers since 1970 in the unit in which most of them are times of today; or YYYYMMDD."""
    best: TimeGuess | None = None
    values = numbers.astype(np.float64)
    for unit in PER_UNIT:
        micros = values * PER_UNIT[unit]
        fits = is_plausible(micros)
        if fits.sum() > (0 if best is None else len(best.times)):
            times = micros[fits].astype(np.int64)
            best = TimeGuess(times, places[fits], sampled, unit=unit, is_float=is_float)
    if not is_float and (best is None or best.share < GOOD):
        days = _of_days([str(n) for n in numbers], places)
        return best if days is None else days
    return best


def _of_days(texts: list[str], places: npt.NDArray[np.int64]) -> TimeGuess | None:
    """Numbers whose digits are a day, or a day and a time, as in 20240131."""
    lengths = Counter(map(len, texts))
    template = DIGITS.get(lengths.most_common(1)[0][0])
    found = None if template is None else _of_formats(texts, places, (template,))
    return found if found is not None and found.share >= GOOD else None


def _of_texts(texts: list[str], places: npt.NDArray[np.int64]) -> TimeGuess | None:
    """As most of the texts are written."""
    kinds = Counter(map(_kind, texts[:1000]))
    kind = kinds.most_common(1)[0][0]
    if kind in ("integer", "float"):
        wanted = INTEGER if kind == "integer" else re.compile(rf"{FLOAT.pattern}|{INTEGER.pattern}")
        fits = np.array([wanted.fullmatch(text) is not None for text in texts])
        numbers = np.array([t for t, good in zip(texts, fits, strict=True) if good], object)
        return _of_numbers(numbers, places[fits], len(texts), is_float=kind == "float")
    iso = _of_iso(texts, places)
    if kind == "iso" or iso.share == 0:
        return iso if kind == "iso" else _best_formats(texts, places)
    best = _best_formats(texts, places)  # such as those of BigQuery, which are nearly ISO
    return iso if best is None or best.share < iso.share else best


def _kind(text: str) -> str:
    for name, pattern in (("iso", ISO), ("integer", INTEGER), ("float", FLOAT)):
        if pattern.fullmatch(text):
            return name
    return "text"


def _of_iso(texts: list[str], places: npt.NDArray[np.int64]) -> TimeGuess:
    times, wrong, _ = read_times(pa.array(texts, pa.string()), None)
    clock = sum(len(text) > len("2010-01-01") for text in texts) > len(texts) / 2
    return TimeGuess(times[~wrong], places[~wrong], len(texts), has_clock=clock)


def _guess_of(parsed: Any, places: npt.NDArray[np.int64], **more: Any) -> TimeGuess:
    good = np.asarray(parsed.notna())
    times = parsed[good].dt.as_unit("us").astype("int64").to_numpy()
    return TimeGuess(times, places[good], len(good), **more)


def _of_formats(
    texts: list[str], places: npt.NDArray[np.int64], formats: tuple[str, ...]
) -> TimeGuess:
    series = pd.Series(texts)
    parsed = parse_format(series, formats[0])
    for other in formats[1:]:
        parsed = parsed.fillna(parse_format(series, other))
    clock = any("%H" in one or "%I" in one for one in formats)
    return _guess_of(parsed, places, formats=formats, has_clock=clock)


def _best_formats(texts: list[str], places: npt.NDArray[np.int64]) -> TimeGuess | None:
    """As most of the texts are written, with months in English or in another language."""
    best = _formats_of(texts, places)
    if (best is not None and best.share == 1) or not any(map(WORD.search, texts)):
        return best
    english = _formats_of(in_english(pa.array(texts, pa.string())).to_pylist(), places)
    most = max((best, english), key=lambda one: -1.0 if one is None else one.share)
    return most


def _formats_of(texts: list[str], places: npt.NDArray[np.int64]) -> TimeGuess | None:
    """The formats that explain most texts, one per shape; of two that are as good, see _order."""
    shapes = Counter(_shape(text) for text in texts).most_common(MOST_SHAPES)
    if sum(number for _, number in shapes) < GOOD * len(texts):
        return None
    examples = [next(text for text in texts if _shape(text) == shape) for shape, _ in shapes]
    ranked = [(*_order(texts, places, one), one) for one in _templates(examples[0])]
    ranked = sorted((one for one in ranked if one[0] > 0), key=lambda one: one[:3], reverse=True)
    if not ranked:
        return None
    most, best = ranked[0][0], ranked[0][-1]
    rivals = [one for number, *_, one in ranked[1:] if number == most]
    formats = [best]
    for example in examples[1:]:
        more = [one for one in _templates(example) if _days(one) == _days(best)]
        formats += [one for one in more[:1] if one not in formats]
    guess = _of_formats(texts, places, tuple(formats))
    return TimeGuess(**{**vars(guess), "other_formats": tuple(rivals)})


def _order(
    texts: list[str], places: npt.NDArray[np.int64], template: str
) -> tuple[int, float, bool]:
    """How many texts a format explains, how seldom their times fall from row to row, and whether
    it is the custom: the month first with slashes, the day first else.
    """
    guess = _of_formats(texts, places, (template,))
    falls = float((np.diff(guess.times) < 0).mean()) if len(guess.times) > 1 else 0.0
    is_custom = _days(template)[0] == ("%m" if "/" in template else "%d")
    return len(guess.times), -falls, is_custom


def _shape(text: str) -> str:
    """A text with its numbers and words made alike: 12/1/10 8:26 -> 9/9/9 9:9."""
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", "9", text))


def _days(template: str) -> list[str]:
    return re.findall(r"%[YymdbB]", template)


CLOCK = re.compile(
    r"(?<!\d)(?P<hour>\d{1,2}):\d\d(?P<seconds>:\d\d(?P<fraction>\.\d{1,9})?)?"
    r"(?P<noon> ?[AaPp]\.?[Mm]\.?)?(?P<zone> ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d)\b)?"
)
HERE = "\ue000"  # stands for the clock of a text


def _templates(text: str) -> Iterator[str]:
    """Formats that a text may be written in."""
    clock = CLOCK.search(text)
    if clock is not None:
        text = text[: clock.start()] + HERE + text[clock.end() :]
    parts = re.findall(r"\d+|[A-Za-z]+|[^A-Za-z\d]+", text)
    for n, part in enumerate(parts):
        if part[:3].title() in DAY_NAMES:
            parts[n] = "%a" if len(part) == 3 else "%A"
    places = [n for n, part in enumerate(parts) if part.isalnum()]
    for template in _date_templates(parts, places):
        yield template if clock is None else template.replace(HERE, _clock_template(clock))


ORDERS = ("dmy", "mdy", "ymd")
DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _date_templates(parts: list[str], places: list[int]) -> Iterator[str]:
    """The dates of parts that are numbers and words in these places, as formats."""
    if len(places) == 1 and re.fullmatch(r"\d{8}|\d{14}", parts[places[0]]):
        clock = "%H%M%S" if len(parts[places[0]]) == 14 else ""
        for day in ("%Y%m%d", "%d%m%Y"):
            yield "".join([*parts[: places[0]], day + clock, *parts[places[0] + 1 :]])
    for order in ORDERS if len(places) == 3 else ():
        names = [_field(letter, parts[n]) for letter, n in zip(order, places, strict=True)]
        if None not in names:
            named = dict(zip(places, names, strict=True))
            yield "".join(str(named.get(n, part)) for n, part in enumerate(parts))


def _field(letter: str, part: str) -> str | None:
    """The directive of a part of a date; None where it can't be that part."""
    if part.isalpha():
        return None if letter != "m" else "%b" if len(part) == 3 else "%B"
    if letter == "y":
        return {2: "%y", 4: "%Y"}.get(len(part))
    return f"%{letter}" if len(part) <= 2 else None


def _clock_template(found: re.Match[str]) -> str:
    noon, zone = found["noon"], found["zone"]
    template = ("%I" if noon else "%H") + ":%M" + (":%S" if found["seconds"] else "")
    template += ".%f" if found["fraction"] else ""
    template += f"{' ' if noon.startswith(' ') else ''}%p" if noon else ""
    if zone:
        named = zone.strip() in ("UTC", "GMT")
        template += zone if named else f"{' ' if zone.startswith(' ') else ''}%z"
    return template
