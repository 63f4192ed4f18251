"""The section of a report on what rules of the business do to the lists, and what to look at."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..facts import Facts, usual
from .parts import Notice, Section, median_of, share, text

# half of what users see is then no longer what they would take
MANY_BOOSTED = 0.5
# users without any event are common among those asked for; that most are is another spelling of ids
MANY_UNKNOWN = 0.5


def rules(facts: Facts) -> Section | None:
    """None where no rule says anything but what is left out."""
    counts = facts.night.counts("score")
    tiles = [*boosted(counts), *asked(counts)]
    if not tiles:
        return None
    says = (
        "They hold for the lists of the night, the fallback too; nothing that is measured has them."
    )
    return Section("rules", "What rules do", says, tiles=tiles)


def boosted(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nothing where no table has boosts."""
    if "boosted_items" not in counts:
        return []
    return [
        ("Items with a boost", text(counts["boosted_items"])),
        ("Places that they have", text(counts["boosted_places"])),
        ("Of all places", share(boosted_share(counts))),
    ]


def asked(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nothing where no table says who gets a list."""
    if "asked" not in counts:
        return []
    return [
        ("Users who are to get a list", text(counts["asked"])),
        ("Of them not in the log", text(counts["asked_unknown"])),
    ]


def boosted_share(counts: Mapping[str, Any]) -> float:
    """The share of the places of all lists that items with a boost have."""
    return float(counts.get("boosted_places", 0) / max(counts.get("places", 0), 1))


def rule_notices(facts: Facts) -> Iterator[Notice]:
    yield from _boosts(facts)
    counts = facts.night.counts("score")
    if counts.get("asked_unknown", 0) > MANY_UNKNOWN * counts.get("asked", 0):
        yield Notice(
            "look",
            f"{counts['asked_unknown']:,} of {counts['asked']:,} users asked for are unknown",
            "They get no list, as nothing is known of them.",
            "most users of score.users_path have an event",
            "See whether the table has the user ids of the log, in the same spelling.",
            "rules",
        )


def _boosts(facts: Facts) -> Iterator[Notice]:
    counts = facts.night.counts("score")
    if "boosted_items" not in counts:
        return
    if not counts["boosted_items"]:
        yield Notice(
            "look",
            "No item is boosted",
            "score.boost_path names a table of which nothing holds tonight.",
            "a boost that holds, where the table is configured",
            "See whether its item ids are those of the log, and whether from and until include the "
            "run date, 00:00 UTC; the log of the night says both.",
            "rules",
        )
    if boosted_share(counts) > MANY_BOOSTED:
        earlier = [past.counts("score") for past in facts.earlier]
        before = usual(boosted_share(past) for past in earlier if "boosted_items" in past)
        yield Notice(
            "look",
            f"Items with a boost have {share(boosted_share(counts))} of all places",
            f"{counts['boosted_items']:,} items are boosted.",
            median_of(None if before is None else share(before), len(facts.earlier)),
            "See whether the boosts of score.boost_path are as large as they should be: they are "
            "added to logits, where 0.7 doubles the odds.",
            "rules",
        )
