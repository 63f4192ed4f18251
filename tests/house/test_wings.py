"""The house: which wing may import which, no circles, and what stays in its place."""

import ast
import graphlib
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from sources import ROOT, python_files, shown

GROUND = {"ground"}
DATA = GROUND | {"config", "files"}
# what each wing may import besides itself; in the order in which they stand on each other
MAY_IMPORT = {
    "ground": set(),
    "config": GROUND,
    "files": GROUND | {"config"},
    "lake": DATA,
    "formats": DATA,
    "tables": DATA | {"formats"},
    "read_log": DATA | {"lake", "formats", "tables"},
    "inputs": DATA | {"formats", "tables", "read_log"},
    "sequences": DATA | {"inputs", "read_log"},
    "evaluate": GROUND | {"sequences"},
    "model": DATA | {"sequences"},
    "counters": DATA | {"sequences", "model"},
    "retrieve": {"config", "model"},
    "decode": GROUND | {"config", "sequences", "model", "counters", "retrieve"},
    "train": DATA | {"sequences", "evaluate", "model", "counters", "decode"},
    "score": DATA | {"inputs", "sequences", "evaluate", "model", "counters", "retrieve", "decode"},
    "item_tables": DATA | {"inputs", "sequences", "evaluate", "model", "counters", "retrieve"},
}
LIBRARY = set(MAY_IMPORT)
SHARED = LIBRARY | {"jobs.process", "jobs.night", "jobs.item_tables", "jobs.runs"}
SHARED |= {"jobs.takeover", "jobs.training", "jobs.planning"}
MAY_IMPORT |= {
    "jobs.process": GROUND,
    "jobs.night": LIBRARY,
    "jobs.item_tables": LIBRARY | {"jobs.night"},
    "jobs.runs": LIBRARY | {"jobs.night"},
    "jobs.training": LIBRARY | {"jobs.night", "jobs.runs"},
    "jobs.takeover": LIBRARY,
    "jobs.planning": LIBRARY | {"jobs.process", "jobs.night", "jobs.takeover", "jobs.training"},
    "jobs.observe": LIBRARY | {"jobs.night", "jobs.runs"},
    "jobs.runner": SHARED | {"jobs.observe"},
    "jobs": SHARED | {"jobs.runner"},  # the stages, and the commands that run them
    "jobs.report": LIBRARY | {"jobs.night", "jobs.runs", "jobs.runner"},
    "jobs.init": LIBRARY | {"jobs.runner", "jobs.observe"},
    "jobs.show": LIBRARY | {"jobs.night", "jobs.runs", "jobs.runner", "jobs.observe"},
    "jobs.submit": GROUND | {"jobs.process", "jobs.runner"},
    "jobs.experiment": SHARED | {"jobs.runner", "jobs"},
    "jobs.faults": SHARED | {"jobs.runner", "jobs"},
    "jobs.benchmark": SHARED | {"jobs.runner", "jobs", "jobs.faults"},
}
MAY_USE_RAY = {"inputs", "sequences", "train", "score"}
RAY_FILES = {"diffsasrec/ray_cluster.py", "diffsasrec/ray_tasks.py"}
NO_TORCH = {
    "config",
    "files",
    "lake",
    "formats",
    "tables",
    "read_log",
    "inputs",
    "sequences",
    "evaluate",
}
MOST_FILES, MOST_LINES, MOST_LINES_OF_TESTS = 12, 299, 400
MOST_LINES_OF_A_FUNCTION, MEDIAN_LINES_OF_A_FUNCTION = 40, 8

SOURCES = python_files("diffsasrec", "jobs")
TESTS = python_files("tests")


def wing_of(path: Path) -> str:
    top, *inner = path.relative_to(ROOT).parts
    if top == "diffsasrec":
        return inner[0] if len(inner) > 1 else "ground"
    return f"jobs.{inner[0]}" if len(inner) > 1 else "jobs"


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that an import in a file names, which may be relative to the file's package."""
    parts = path.relative_to(ROOT).parts[:-1]
    above = parts[: len(parts) - node.level + 1] if node.level else ()
    return ".".join([*above, *filter(None, [node.module])])


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """The syntax of a file, which many rules are about."""
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports, as a dotted name."""
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            names |= {module, *(f"{module}.{a.name}" for a in node.names)}
    return frozenset(names)


def files_imported(path: Path) -> set[Path]:
    """Those of our own files that a file imports; what only marks a package is none."""
    found = {ROOT / f"{name.replace('.', '/')}.py" for name in imports_of(path)}
    return found & set(SOURCES)


def functions(paths: list[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{shown(path)}:{node.name}", node.end_lineno - node.lineno + 1


def test_every_wing_has_its_place_and_every_place_is_a_wing():
    assert {wing_of(path) for path in SOURCES if "schedules" not in path.parts} == set(MAY_IMPORT)


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_a_wing_imports_only_what_it_may(wing: str):
    mine = [path for path in SOURCES if wing_of(path) == wing]
    imported = {wing_of(other) for path in mine for other in files_imported(path)}
    assert imported - {wing} <= MAY_IMPORT[wing]


@pytest.mark.parametrize("path", python_files("jobs"), ids=shown)
def test_jobs_name_each_other_relatively_for_an_installed_package_has_them_elsewhere(path: Path):
    named = [
        node for node in nodes_of(path) if isinstance(node, ast.ImportFrom) and node.level == 0
    ]
    assert not [node.lineno for node in named if (node.module or "").split(".")[0] == "jobs"]
    assert "import jobs" not in path.read_text()
    assert 'module("jobs' not in path.read_text() and 'module(f"jobs' not in path.read_text()


def test_no_files_import_each_other_in_a_circle():
    graphlib.TopologicalSorter({path: files_imported(path) for path in SOURCES}).prepare()


@pytest.mark.parametrize("path", python_files("diffsasrec"), ids=shown)
def test_the_library_knows_no_jobs_and_little_ray(path: Path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert "jobs" not in roots
    assert "ray" not in roots or wing_of(path) in MAY_USE_RAY or shown(path) in RAY_FILES


@pytest.mark.parametrize("wing", sorted(NO_TORCH))
def test_what_reads_the_log_and_writes_the_lake_needs_no_torch(wing: str):
    mine = [path for path in SOURCES if wing_of(path) == wing]
    assert not [path for path in mine if "torch" in {n.split(".")[0] for n in imports_of(path)}]


@pytest.mark.parametrize("wing", [w for w in MAY_IMPORT if w not in ("ground", "jobs")])
def test_a_wing_has_few_files_and_says_nothing_in_its_init(wing: str):
    mine = [path for path in SOURCES if wing_of(path) == wing]
    for directory in {path.parent for path in mine}:
        files = [path for path in mine if path.parent == directory]
        assert len(files) <= MOST_FILES, directory
    inits = [path.read_text() for path in mine if path.name == "__init__.py"]
    assert inits and all(text.startswith('"""') or not text for text in inits)


def test_no_file_is_long():
    assert [shown(p) for p in SOURCES if len(p.read_text().splitlines()) > MOST_LINES] == []


def test_no_test_file_is_long():
    long = [shown(p) for p in TESTS if len(p.read_text().splitlines()) > MOST_LINES_OF_TESTS]
    assert long == []


def test_functions_are_short():
    lengths = dict(functions(SOURCES + TESTS))
    assert {n: k for n, k in lengths.items() if k > MOST_LINES_OF_A_FUNCTION} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_LINES_OF_A_FUNCTION


def test_nothing_is_named_after_nothing():
    vague = {"utils", "common", "helpers", "base", "manager", "core", "misc"}
    assert vague.isdisjoint(part for path in SOURCES for part in (path.stem, path.parent.name))


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_nothing_is_unpickled(path: Path):
    source = path.read_text().replace("safetensors.torch.load(", "")
    assert {"pickle", "cloudpickle", "shelve", "marshal", "joblib", "dill"}.isdisjoint(
        imports_of(path)
    )
    assert "torch.load(" not in source
    assert "allow_pickle=True" not in source
