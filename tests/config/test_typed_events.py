"""The keys events.type_column and events.types."""

import pytest

from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError

TYPED = """
lake: l
events:
  path: p
  type_column: kind
  types:
    purchase: {weight: 1.0, target: true, seen: true}
    view: {weight: 0.1, target: false, seen: false}
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(text, overrides)
    return str(refused.value)


def test_a_type_counts_1_is_predicted_and_seen_unless_something_else_is_said():
    types = load_config(TYPED, ["events.types.cart={}"]).events.types
    assert (types["cart"].weight, types["cart"].target, types["cart"].seen) == (1.0, True, True)
    assert (types["view"].weight, types["view"].target, types["view"].seen) == (0.1, False, False)


def test_a_key_of_a_type_is_set_on_the_command_line():
    config = load_config(TYPED, ["events.types.view.weight=0.5"])
    assert config.events.types["view"].weight == 0.5
    assert config.sha256() != load_config(TYPED).sha256()


def test_the_order_of_the_types_makes_no_other_run():
    lines = TYPED.splitlines()
    swapped = "\n".join([*lines[:-2], lines[-1], lines[-2]])
    assert load_config(swapped).sha256() == load_config(TYPED).sha256()


def test_without_types_all_events_are_alike():
    assert load_config("lake: l\nevents: {path: p}").events.event_types is None


def test_types_that_are_numbers_are_names():
    text = TYPED.replace("purchase", "1").replace("view", "2")
    assert list(load_config(text).events.types) == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("type_column: kind", "type_column: null"), "need each other"),
        (("target: true", "target: false"), "none of purchase, view is a target"),
        (("weight: 0.1", "weight: 0"), "events.types.view.weight=0"),
        (("weight: 0.1", "wieght: 0.1"), "events.types.view.wieght; did you mean"),
        (("weight: 0.1", "weight: 1e9"), "events.types.view.weight"),
    ],
)
def test_what_makes_no_sense_is_refused_by_key_and_remedy(change, says):
    assert says in refusal(TYPED.replace(*change))


def test_a_column_without_types_is_refused():
    says = refusal("lake: l\nevents: {path: p, type_column: kind}")
    assert "events.type_column=kind" in says and "name the column and the types" in says


def test_more_types_than_a_code_can_name_are_refused():
    types = ", ".join(f"t{number}: {{}}" for number in range(101))
    text = f"lake: l\nevents: {{path: p, type_column: kind, types: {{{types}}}}}"
    assert "names 101 types, more than 100; is kind the right column?" in refusal(text)
