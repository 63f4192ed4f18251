"""The reliability figures: each breaks toy nights on purpose, and counts what came of it.

    python -m jobs.benchmark reliability
    python -m jobs.benchmark reliability --figures race,corpus --short

A figure is a file of `jobs/faults/` with three functions:

    cells(short)             what is tried, one JSON object per try
    measure(cell, place)     tries it in the empty directory `place`; {"right": bool, ...}
    summary(results)         the numbers of the table, from the outcomes of all cells

What was measured stays in `{directory}/{figure}.jsonl` and is not tried again, so that hours of
tries can be spread over several runs.
"""

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from diffsasrec.errors import RefusedError
from diffsasrec.progress import Progress

FIGURES = ("crashes", "race", "repeat", "store", "nodes", "corpus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--figures", type=_figures, default=FIGURES, help="as in: race,corpus")
    parser.add_argument("--short", action="store_true", help="a few tries of each, in minutes")
    parser.add_argument(
        "--directory", type=Path, default=Path("reliability"), help="what was tried"
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no try after so many"
    )


def _figures(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(FIGURES):
        raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)}; known: {','.join(FIGURES)}")
    return names


def reliability(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How often nights that are disturbed on purpose end right.

    Raises:
        RefusedError: not all of them do.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    options.directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    wrong = []
    for name in options.figures:
        figure = _figure(name)
        tries = [json.loads(json.dumps(cell)) for cell in figure.cells(short=options.short)]
        results = _measure(name, tries, options.directory, deadline)
        counted = {"tries": len(results), "right": sum(result["right"] for result in results)}
        counted |= {"left_to_try": len(tries) - len(results)}
        yield {"variant": name, **counted, **(figure.summary(results) if results else {})}
        wrong += [f"{name} {result['cell']}" for result in results if not result["right"]]
    if wrong:
        raise RefusedError(
            f"{len(wrong)} tries did not end right: {'; '.join(wrong[:5])}; what they left lies in "
            f"{options.directory}"
        )


def _figure(name: str) -> ModuleType:
    return import_module(f".{name}", __spec__.parent)


def _measure(
    name: str, cells: list[dict[str, Any]], directory: Path, deadline: float
) -> list[dict[str, Any]]:
    """The outcomes of the cells of a figure, measured now or before; without cells out of time."""
    path = directory / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {json.dumps(entry["cell"]): entry for entry in map(json.loads, lines)}
    progress = Progress(name, "try", interval=0)
    for number, cell in enumerate(cells):
        if json.dumps(cell) not in known and time.monotonic() < deadline:
            place = (directory / f"{name}-{number:04d}").absolute()
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            entry = {
                "cell": cell,
                **_figure(name).measure(cell, place),
            }
            known[json.dumps(cell)] = entry
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            if entry["right"]:
                shutil.rmtree(place)
            progress.update(number + 1, len(cells), f", {cell}")
    return [known[json.dumps(cell)] for cell in cells if json.dumps(cell) in known]
