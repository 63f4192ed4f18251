"""What the weights are worth: notices about their quality, and what was compared at all."""

from collections.abc import Iterator

from diffsasrec.evaluate.slices import AGE, EVENTS
from diffsasrec.evaluate.versus import LEAST_USERS

from ..facts import Facts, Json, Night, timings, usual
from .parts import Notice, median_of, nights

# A relative drop that readers of the lists would notice; smaller ones are mostly within intervals.
FAR_BELOW = 0.1


def measured_before(facts: Facts) -> list[Night]:
    """The earlier nights whose figures can be compared, without the cited run."""
    cited = facts.night.cited or {}
    whose = (cited.get("ds"), cited.get("run_id"))
    return [past for past in facts.measured_earlier if (past.ds, past.run_id) != whose]


def days(number: int) -> str:
    return f"{number} day" if number == 1 else f"{number} days"


def whose_figures(night: Night) -> str:
    """Where cited figures come from; "" where this night measured its own."""
    if night.cited is None:
        return ""
    return (
        f"Measured on the night of {night.measured} (run {night.cited['run_id']}), whose weights "
        f"serve: {days(night.days_since_measured)} old. Nothing was measured on this night."
    )


def in_a_tile(night: Night) -> str:
    """The quality in one line."""
    ndcg, counter = night.metric("NDCG"), night.best_counter()
    if ndcg is None:
        return "not known"
    line = f"NDCG@{night.k} {ndcg:.4f}"
    if counter is not None:
        line += f"; {counter[0]} {counter[1]:.4f}"
    if night.cited is not None:
        line += f"; of {night.measured}, {days(night.days_since_measured)} old"
    return line


def quality_notices(facts: Facts) -> Iterator[Notice]:
    night = facts.night
    if night.metrics is None:
        if "evaluate" in night.records:
            yield Notice(
                "look",
                "The quality of the weights is not known",
                "The run has no metrics.json, and its records cite no figures.",
                "figures of the model beside those of the counters",
                "Restore metrics.json of this run, or train anew (train.every_days=1).",
                "published",
            )
        return
    if not night.metrics["model"]["n"]:
        yield Notice(
            "bad",
            "Nothing was measured",
            "No user has a holdout item.",
            "hundreds of holdout users",
            "Bring more history, or move the split (split.quantile).",
            "quality",
        )
        return
    yield from _no_better(facts)
    yield from _worse_parts(facts)
    yield from _far_below(facts)


def _no_better(facts: Facts) -> Iterator[Notice]:
    night, counter = facts.night, facts.night.best_counter()
    if counter is None or not night.is_no_better:
        return
    remedy = (
        "Look at the curves of the training: a loss that did not fall is a matter of learning "
        "rate or epochs; otherwise see what changed in the log."
    )
    if night.cited is not None:
        remedy = (
            f"See the report of {night.measured} for the training. These weights serve until they "
            "are train.every_days old; train.every_days=1 trains on the next night."
        )
    served = f"The lists are by {night.counter} (gate.otherwise). " if night.counter else ""
    yield Notice(
        "bad",
        f"The model is no better than {counter[0]}",
        f"NDCG@{night.k} is {night.metric('NDCG'):.4f}; {counter[0]} has {counter[1]:.4f}. "
        f"{served}{whose_figures(night)}".strip(),
        median_of(_versus(facts), len(measured_before(facts))),
        remedy,
        "quality",
    )


def slice_in_words(row: Json) -> str:
    """A part of the holdout, a row of `slices` in metrics.json."""
    start, stop = row["from"], row["to"]
    last = None if stop is None else stop - 1  # of whole numbers
    between = f"{start} or more" if stop is None else f"{start} to {stop}"
    if row["by"] == EVENTS:
        number = between if last is None else f"{start}" if last == start else f"{start} to {last}"
        return f"users with {number} events before the split"
    if row["by"] == AGE:
        return f"users whose last event lies {between} days before the split"
    until = "100" if stop is None else f"{stop}"
    return f"targets in place {start} to {until} % by popularity"


def _worse_parts(facts: Facts) -> Iterator[Notice]:
    """Parts of the holdout for which the counter is better, where not all of it says so."""
    night = facts.night
    metrics = night.metrics or {}
    worse = [
        row
        for row in metrics.get("slices", [])
        if row["n"] >= LEAST_USERS and row["difference_ci"][1] < 0
    ]
    if not worse or night.counter or night.is_no_better:
        return
    words = "; ".join(
        f"{slice_in_words(row)}: {-row['difference']:.4f} below, of {row['n']:,} users"
        for row in worse
    )
    yield Notice(
        "look",
        f"For some, the model is worse than {metrics['versus']['counter']}",
        f"{words[:1].upper()}{words[1:]}. {whose_figures(night)}".strip(),
        "none; by chance, one of forty parts",
        "See the parts of the holdout below, and whether they stay the same over nights.",
        "quality",
    )


def _far_below(facts: Facts) -> Iterator[Notice]:
    night, others = facts.night, measured_before(facts)
    for name in ("NDCG", "Coverage"):
        value, before = night.metric(name), usual(past.metric(name) for past in others)
        interval = night.interval(name)
        if value is None or before is None or value >= (1 - FAR_BELOW) * before:
            continue
        if interval is None or interval[1] < before:
            yield Notice(
                "bad",
                f"{name}@{night.k} is far below the last nights",
                f"{value:.4f}, {1 - value / before:.0%} below. {whose_figures(night)}".strip(),
                median_of(f"{before:.4f}", len(others)),
                "Compare the counters below: if they fell as well, the log has changed; if not, "
                "the training has. gate.max_relative_drop would refuse such a night.",
                "quality",
            )


def _versus(facts: Facts) -> str | None:
    pairs = [(past.metric("NDCG"), past.best_counter()) for past in measured_before(facts)]
    ratio = usual(value / best[1] for value, best in pairs if value and best and best[1])
    return None if ratio is None else f"{ratio:.2f} times the best counter"


def calm(facts: Facts) -> str:
    """What a page without notices says: only what was compared is as usual."""
    night = facts.night
    about = whose_figures(night)
    if not facts.earlier:
        first = (
            "There is no earlier night to compare with: only what is wrong by itself would show."
        )
        return f"{first} {about}".strip()
    found = compared(facts)
    same = [name for name, is_so in found.items() if is_so]
    others = [name for name, is_so in found.items() if not is_so]
    says = []
    if same:
        words = listed(same)
        verb = "is" if same == ["quality"] else "are"
        past = nights(len(facts.earlier))
        says.append(f"{words[0].upper()}{words[1:]} {verb} as usual, beside {past}.")
    if others:
        says.append(f"Not compared, for want of figures: {listed(others)}.")
    return " ".join([*says, about]).strip()


def compared(facts: Facts) -> dict[str, bool]:
    """What can be as usual, and whether both this night and something beside it are known."""
    night, earlier = facts.night, facts.earlier
    rows = [past.counts("prepare").get("rows") for past in (night, *earlier)]
    return {
        "rows": rows[0] is not None and any(n is not None for n in rows[1:]),
        "quality": night.metric("NDCG") is not None
        and any(past.metric("NDCG") is not None for past in measured_before(facts)),
        "lists": bool(night.num_lists) and any(past.num_lists for past in earlier),
        "weights": facts.trained_before is not None,  # beside the run date
        "timings": any(before is not None for _, _, before in timings(night, earlier)),
    }


def listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
