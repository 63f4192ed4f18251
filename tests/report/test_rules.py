"""What the report says of rules that change lists."""

from jobs.report.facts import Facts, Night
from jobs.report.sections.rules import rule_notices, rules
from jobs.report.steps import user_steps

BOOSTED = {"boosted_items": 12, "boosted_places": 250, "places": 1000}


def facts_of(counts: dict[str, int], *earlier: dict[str, int]) -> Facts:
    def night(of: dict[str, int]) -> Night:
        return Night("2024-03-01", "x", "published", records={"score": {"counts": of}})

    return Facts(night(counts), earlier=tuple(night(each) for each in earlier))


def test_boosts_are_told_with_the_share_of_the_places():
    section = rules(facts_of(BOOSTED))
    assert section is not None and section.id == "rules"
    assert section.tiles == [
        ("Items with a boost", "12"),
        ("Places that they have", "250"),
        ("Of all places", "25.0 %"),
    ]
    assert list(rule_notices(facts_of(BOOSTED))) == []


def test_a_night_without_such_rules_has_no_such_section():
    assert rules(facts_of({"model": 9})) is None and not list(rule_notices(facts_of({"model": 9})))


def test_boosts_that_hold_for_nothing_and_boosts_that_take_over_are_noticed():
    nothing = {"boosted_items": 0, "boosted_places": 0, "places": 1000}
    (notice,) = rule_notices(facts_of(nothing))
    assert notice.title == "No item is boosted" and "from and until" in notice.remedy
    most = BOOSTED | {"boosted_places": 700}
    (notice,) = rule_notices(facts_of(most, BOOSTED, {"model": 9}, BOOSTED))
    assert notice.title == "Items with a boost have 70.0 % of all places"
    assert notice.usual == "25.0 % (median of the last 3 nights)"


def test_users_who_are_asked_for_are_told_and_many_unknown_ones_noticed():
    counts = {"asked": 1000, "asked_unknown": 30, "not_asked": 5}
    section = rules(facts_of(counts))
    assert section is not None
    assert section.tiles == [
        ("Users who are to get a list", "1,000"),
        ("Of them not in the log", "30"),
    ]
    assert not list(rule_notices(facts_of(counts)))
    (notice,) = rule_notices(facts_of(counts | {"asked_unknown": 501}))
    assert notice.title == "501 of 1,000 users asked for are unknown"
    steps = user_steps({"users": 9}, {"model": 3, "not_asked": 5, "left_out_inactive": 1}, {})
    told = [(step.label, step.number) for step in steps[:4]]
    assert told == [("users", 9), ("not asked for", 5), ("inactive", 1), ("lists", 3)]
