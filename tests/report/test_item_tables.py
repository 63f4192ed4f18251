"""What the report says of similar items and of what is trending."""

from typing import Any

from jobs.report.facts import Facts, Night
from jobs.report.sections.item_tables import item_tables

SIMILAR = {"similar_rows": 1031, "similar_items": 5, "similar_items_by_category": 2}
SIMILAR |= {"items_without_similar": 1}
TRENDING = {"trending_rows": 8, "trending_categories": 3}


def facts_of(counts: dict[str, int], metrics: dict[str, Any] | None = None) -> Facts:
    records = {"score": {"counts": counts}}
    night = Night("2024-03-01", "x", "published", records=records, metrics=metrics)
    return Facts(night, config={"similar_items": {"by": "next_baskets"}})


def test_the_tables_are_told_in_numbers():
    metrics = {"settings": {"decayed popular": {"half_life_days": 7.0}}}
    section = item_tables(facts_of(SIMILAR | TRENDING, metrics))
    assert section is not None
    assert section.tiles == [
        ("Rows of similar_items/", "1,031"),
        ("Rows of trending/", "8"),
        ("Categories in it", "3"),
        ("Its half-life", "7 days"),
    ]
    assert section.tables[0].rows == [
        ["by next baskets", "5", "62.5 %"],
        ["the popular ones of their category", "2", "25.0 %"],
        ["none", "1", "12.5 %"],
    ]


def test_a_night_without_such_tables_has_no_such_section_and_one_of_them_suffices():
    assert item_tables(facts_of({"model": 9})) is None
    section = item_tables(facts_of(TRENDING))
    assert section is not None and not section.tables and len(section.tiles) == 2
