"""A figure of matplotlib as inline SVG: its text is text, its colours are those of the page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins for colours: each becomes a CSS variable of the page.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
MAIN, OTHER, GOOD, BAD = "#010102", "#010103", "#010104", "#010105"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    MAIN: "--main",
    OTHER: "--other",
    GOOD: "--good",
    BAD: "--bad",
}
WIDTH = 4.6  # inches: 331 points, what a phone has for it, so that a point is a pixel there
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


class Chart:
    """A figure that turns into SVG at the end of a `with` block of `chart`."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure, self.axes, self.svg = figure, axes, Markup()


@contextmanager
def chart(name: str, *, height: float = 2.6) -> Iterator[Chart]:
    """`name`: unique on the page, as ids inside of the SVG are made from it."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        made = Chart(figure, axes)
        yield made
        made.svg = to_svg(figure, name)


def to_svg(figure: Figure, name: str) -> Markup:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(
        buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"(?:#|href=\"#)([\w-]+)", text))
    text = re.sub(r' id="([\w-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)([\w-]+)', rf"\g<1>{name}-\g<2>", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', _opening, text, count=1)
    # written by matplotlib, which escapes what it is given
    return Markup(text)


def _opening(match: re.Match[str]) -> str:
    # hidden from readers of screens: they have the caption and the table of the numbers
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {namespaces} viewBox="{match[1]}" aria-hidden="true">'
