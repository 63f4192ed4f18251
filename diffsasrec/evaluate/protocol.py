"""What a metrics.json says, for those that measure nothing themselves: most commands."""

from collections.abc import Mapping
from typing import Any

# The rule by which figures are made, in metrics.json. Those of different rules are not comparable.
# 1, where nothing is said: one holdout item per user, ties in an order that models could learn.
PROTOCOL = 2


def protocol_of(metrics: Mapping[str, Any]) -> int:
    """The rule by which a metrics.json was made."""
    return int(metrics.get("protocol", 1))


def served_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of what makes the lists, of a metrics.json: of the model, or of a counter."""
    counter = metrics.get("counter")
    found: dict[str, Any] = metrics["baselines"][counter["name"]] if counter else metrics["model"]
    return found
