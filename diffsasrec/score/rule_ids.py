"""The rules of a list as written, and which of their ids a log knows: no model is needed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.data import ItemsConfig
from diffsasrec.schema import like

NAMED = 5  # unknown ids that are named


@dataclass(frozen=True)
class Rules:
    """What holds for items; fields and their meaning are those of the configuration."""

    deny_path: str | None = None
    allow_path: str | None = None
    max_per_category: int | None = None
    items: ItemsConfig | None = None  # gives the category of each item
    boost_path: str | None = None  # by how much an item's logit is raised, and when


def is_listed(ids: pa.Array, listed: pa.Array) -> npt.NDArray[np.bool_]:
    """Which of some canonical ids a rule lists, [n]."""
    return np.asarray(pc.is_in(ids, value_set=like(listed, ids.type)))


@dataclass(frozen=True)
class Match:
    """How many of the ids of a rule the log knows."""

    ids: int
    known: int
    example: str = ""  # in words, if none is known: both spellings
    unknown: tuple[str, ...] = ()  # some that are not, of a rule whose ids are named

    def __add__(self, other: "Match") -> "Match":
        example = "" if self.known + other.known else self.example or other.example
        unknown = (*self.unknown, *other.unknown)[:NAMED]
        return Match(self.ids + other.ids, self.known + other.known, example, unknown)

    @property
    def names(self) -> str:
        """The unknown ids in words, behind a count."""
        if not self.unknown:
            return ""
        more = self.ids - self.known - len(self.unknown)
        return f"; unknown: {', '.join(self.unknown)}{f' and {more} more' if more else ''}"


def match(listed: pa.Array, known: pa.Array, *, named: bool = False) -> Match:
    """Which of the ids of a rule the log knows; both canonical, `known` without duplicates.

    `named`: says some that are unknown.
    """
    found = pc.is_in(like(listed, known.type), value_set=known)
    num = pc.sum(found).as_py() or 0
    example = _spellings(listed, known) if num == 0 and len(listed) and len(known) else ""
    unknown = listed.filter(pc.invert(found)).slice(0, NAMED) if named else listed[:0]
    return Match(len(listed), num, example, tuple(map(repr, unknown.to_pylist())))


def _spellings(listed: pa.Array, known: pa.Array) -> str:
    """An id of a rule beside one of the log: the same id in another spelling, if there is one."""
    texts, others = listed.cast(pa.string()).drop_null(), known.cast(pa.string())
    place = pc.index_in(_plain(texts), value_set=_plain(others))
    same = place.is_valid().index(True).as_py()
    if same >= 0:
        written = others[place[same].as_py()].as_py()
        return f"what is {texts[same].as_py()!r} there is {written!r} in the log"
    first = texts[0].as_py() if len(texts) else None
    return f"its ids look like {first!r}, those of the log like {others[0].as_py()!r}"


def _plain(texts: pa.Array) -> pa.Array:
    """Ids without what other systems change: blanks, leading zeros, a trailing .0, case."""
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    return pc.replace_substring_regex(plain, r"^0+([0-9]+?)$|^([0-9]+?)\.0+$", r"\1\2")
