"""Numbers -> charts."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import matplotlib.dates as mdates
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from .svg import BAD, GOOD, INK, MAIN, OTHER, chart


def flow_chart(name: str, steps: Sequence[tuple[str, int, str]]) -> Markup:
    """What is there (total), what goes (drop) and what it is made of (part), from top to bottom."""
    with chart(name, height=0.5 + 0.32 * len(steps)) as made:
        axes, left = made.axes, 0
        places = list(range(len(steps)))
        for place, (_, number, kind) in zip(places, steps, strict=True):
            start = 0
            if kind == "total":
                left = number
            elif kind == "drop":
                left -= number
                start = left
            colour = {"total": MAIN, "drop": BAD, "part": OTHER}[kind]
            axes.barh(place, number, left=start, height=0.62, color=colour)
            minus = "\N{MINUS SIGN}" if kind == "drop" else ""
            axes.annotate(
                f"{minus}{number:,}",
                (start + number, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
            )
        axes.set_yticks(places, [label for label, _, _ in steps])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.xaxis.set_visible(False)
        axes.grid(False)
        axes.spines[["bottom"]].set_visible(False)
    return made.svg


def days_chart(name: str, events: Mapping[str, int], bad: Mapping[str, int]) -> Markup:
    """Events per day, and bad rows of the day on a panel of their own below."""
    kinds = [("events", events, MAIN), ("bad rows", bad, BAD)]
    kinds = [kind for kind in kinds if kind[1]]
    with chart(name, height=1.0 + len(kinds)) as made:
        made.axes.remove()
        panels = made.figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, counts, colour) in zip(panels, kinds, strict=True):
            axes.patch.set_visible(False)
            days = [date.fromisoformat(day) for day in counts]
            if label == "events":
                axes.fill_between(days, list(counts.values()), color=colour, alpha=0.25, lw=0)
                axes.plot(days, list(counts.values()), color=colour)
            else:
                axes.vlines(days, 0, list(counts.values()), color=colour, lw=3)
                worst = max(counts, key=lambda day: counts[day])
                axes.annotate(
                    worst,
                    (date.fromisoformat(worst), counts[worst]),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=11,
                )
                axes.margins(y=0.3)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(label)
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        if len({*events, *bad}) == 1:  # else years around it
            (day,) = days
            panels[-1].set_xlim(day - timedelta(days=15), day + timedelta(days=15))
        _dates(panels[-1])
    return made.svg


def _dates(axes: Axes) -> None:
    locator = mdates.AutoDateLocator(minticks=2, maxticks=4)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))


Interval = tuple[float, float, float]  # value, low, high


def intervals_chart(name: str, rows: Sequence[tuple[str, Interval]], label: str) -> Markup:
    """A dot and its interval per row; the first one stands out."""
    with chart(name, height=0.8 + 0.32 * len(rows)) as made:
        axes = made.axes
        for place, (row, (value, low, high)) in enumerate(rows):
            colour = MAIN if row == "model" else OTHER
            axes.plot([low, high], [place, place], color=colour, lw=2.2, alpha=0.6)
            axes.plot([value], [place], "o", color=colour, ms=7)
        axes.set_yticks(range(len(rows)), [row for row, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{label}, with 95 % intervals")
        axes.grid(axis="y", visible=False)
    return made.svg


def nights_chart(
    name: str,
    days: Sequence[str],
    lines: Mapping[str, Sequence[float | None]],
    band: Sequence[tuple[float, float] | None] = (),
) -> Markup:
    """One line per name over the nights; `band`: the interval of the first of them."""
    with chart(name, height=2.4) as made:
        axes, dates = made.axes, [date.fromisoformat(day) for day in days]
        for (label, values), colour in zip(lines.items(), (MAIN, OTHER, GOOD), strict=False):
            known = [(d, v) for d, v in zip(dates, values, strict=True) if v is not None]
            if known:
                axes.plot(*zip(*known, strict=True), "o-", ms=4, color=colour, label=label)
        inside = [(d, b) for d, b in zip(dates, band, strict=False) if b]
        if inside:
            low, high = [b[0] for _, b in inside], [b[1] for _, b in inside]
            axes.fill_between(
                mdates.date2num([d for d, _ in inside]), low, high, color=MAIN, alpha=0.18, lw=0
            )
        axes.set_ylim(bottom=0)
        axes.margins(y=0.2)
        _legend(axes, len(lines))
        if len(set(dates)) == 1:
            axes.set_xticks([mdates.date2num(dates[0])], [days[0]])
        else:
            _dates(axes)
    return made.svg


def _legend(axes: Axes, number: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(number, 2),
        fontsize=11,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1.2,
    )


def loss_chart(name: str, curves: Mapping[str, Sequence[float]], label: str) -> Markup:
    """A value per epoch, one line per phase of the training."""
    styles = [(MAIN, "-"), (OTHER, "-"), (MAIN, "--"), (OTHER, "--"), (GOOD, "-"), (GOOD, "--")]
    with chart(name, height=2.7) as made:
        axes = made.axes
        for (phase, values), (colour, dash) in zip(curves.items(), styles, strict=False):
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, dash, marker="o", ms=4, color=colour, label=phase)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.margins(y=0.1)
        _legend(axes, 2)
    return made.svg


def tail_chart(name: str, shares: Sequence[tuple[int, float, float]]) -> Markup:
    """How much of the log and of the lists falls on the most popular items."""
    with chart(name, height=2.7) as made:
        axes, numbers = made.axes, [n for n, _, _ in shares]
        axes.plot(numbers, [b for _, b, _ in shares], color=OTHER, label="events of the log")
        axes.plot(numbers, [c for _, _, c in shares], color=MAIN, label="places in lists")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("items, the most popular first")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        _legend(axes, 2)
    return made.svg


def scores_chart(name: str, rows: Sequence[tuple[int, float, float, float]], label: str) -> Markup:
    """Probability by place, as a rank or a step: place, low, median, high."""
    with chart(name, height=2.5) as made:
        axes, ranks = made.axes, [rank for rank, *_ in rows]
        axes.fill_between(
            ranks, [r[1] for r in rows], [r[3] for r in rows], color=MAIN, alpha=0.2, lw=0
        )
        axes.plot(ranks, [r[2] for r in rows], "o-", ms=4, color=MAIN)
        if min(r[1] for r in rows) * 20 < max(r[3] for r in rows):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")
        axes.set_xlabel(label)
        axes.set_ylabel("probability")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    return made.svg


def timings_chart(name: str, rows: Sequence[tuple[str, float, float | None]]) -> Markup:
    """Seconds per stage, with a mark where they usually are."""
    with chart(name, height=0.9 + 0.32 * len(rows)) as made:
        axes = made.axes
        axes.barh(range(len(rows)), [seconds for _, seconds, _ in rows], height=0.6, color=MAIN)
        marks = [(before, place) for place, (_, _, before) in enumerate(rows) if before is not None]
        if marks:
            axes.plot(
                *zip(*marks, strict=True), "|", color=INK, ms=15, mew=2.2, label="usual", ls=""
            )
            _legend(axes, 1)
        axes.set_yticks(range(len(rows)), [stage for stage, _, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.grid(axis="y", visible=False)
    return made.svg
