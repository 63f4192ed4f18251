"""The gate: what figures a night must reach to be published."""

from collections.abc import Mapping
from typing import Any

from diffsasrec.evaluate.versus import Versus


def gate_failures(
    served: Mapping[str, Any],
    *,
    floors: Mapping[str, float],
    metric: str,
    max_relative_drop: float | None,
    previous: Mapping[str, Any] | None,
    versus: Versus | None = None,
) -> list[str]:
    """What forbids publishing, in words; [] when nothing does.

    Args:
        served: the metrics of what would make the lists.
        previous: the metrics of what was served last before this date, None without any.
        versus: the model beside the best counter, where a worse one is to be refused.
    """
    if served["n"] == 0 and (floors or max_relative_drop is not None):
        return ["no user has a holdout item, so that nothing was measured"]
    failures = [
        f"{name} is {served[name]:.4f}, below its floor of {floor} (gate.floors)"
        for name, floor in floors.items()
        if not served[name] >= floor
    ]
    if max_relative_drop is not None and previous is not None and metric in previous:
        allowed = previous[metric] * (1 - max_relative_drop)
        if served[metric] < allowed:
            failures.append(
                f"{metric} is {served[metric]:.4f}, more than gate.max_relative_drop="
                f"{max_relative_drop} below the {previous[metric]:.4f} of what was served before"
            )
    if versus is not None and versus.is_worse:
        failures.append(f"{versus.in_words()} (gate.otherwise=refuse)")
    return failures
