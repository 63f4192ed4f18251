"""The section of a report on similar items and on what is trending."""

from typing import Any

from ..facts import Facts
from .parts import Section, Table, share, text


def item_tables(facts: Facts) -> Section | None:
    """None where the night made no such table."""
    counts = facts.night.counts("score")
    tiles: list[tuple[str, str]] = []
    tables = []
    if "similar_rows" in counts:
        tiles.append(("Rows of similar_items/", text(counts["similar_rows"])))
        tables.append(_neighbours(counts, facts.config.get("similar_items", {}).get("by", "")))
    if "trending_rows" in counts:
        tiles.append(("Rows of trending/", text(counts["trending_rows"])))
        tiles.append(("Categories in it", text(counts["trending_categories"])))
        if (half_life := _half_life(facts)) is not None:
            tiles.append(("Its half-life", f"{half_life:g} days"))
    if not tiles:
        return None
    says = "They lie beside the lists in the run directory and are published with them."
    return Section("item-tables", "Similar and trending items", says, tiles=tiles, tables=tables)


def _neighbours(counts: Any, by: str) -> Table:
    """What the neighbours of the items are."""
    names = {
        "similar_items": f"by {by.replace('_', ' ')}" if by else "of their own",
        "similar_items_by_category": "the popular ones of their category",
        "items_without_similar": "none",
    }
    total = max(sum(counts[name] for name in names), 1)
    rows = [(what, counts[name], share(counts[name] / total)) for name, what in names.items()]
    return Table.of("Which neighbours items have", ("neighbours", "items", "share"), rows)


def _half_life(facts: Facts) -> float | None:
    settings = (facts.night.metrics or {}).get("settings", {})
    found = settings.get("decayed popular", {}).get("half_life_days")
    return None if found is None else float(found)
