"""Imports point down, and Ray and pickle stay where they belong."""

import ast
from pathlib import Path

import pytest
from sources import ROOT

LEVELS = [
    [
        "errors",
        "schema",
        "progress",
        "memory",
        "counters",
        "explore",
        "rows",
        "categories",
        "local",
        "lakes",
    ],
    ["config", "objects", "textlog", "vocab", "metrics", "diffusion", "narrow", "fused"],
    ["storage"],
    ["catalogue", "inputs", "rundir", "audit", "iceberg", "exposure"],
    ["top", "claims", "tables"],
    ["shortlist", "model", "items", "popular"],
    ["trace"],
    ["decode"],
    ["events", "baselines", "recommend", "checkpoint", "publish"],
    ["rules", "partitions", "warm", "badrows", "prune"],
    ["newest"],
    ["split"],
    ["sequences"],
    ["batches", "evaluate", "lists"],
    ["objective", "phases", "online", "score"],
    ["update"],
    ["fit"],
    ["train"],
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
MAY_USE_RAY = {"events", "split", "sequences", "score", "train"}
MODULES = sorted(p.stem for p in (ROOT / "diffsasrec").glob("*.py") if p.stem != "__init__")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, as a dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            names |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
    return names


def test_every_module_has_a_level():
    assert sorted(LEVEL) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_levels(module: str):
    names = imports_of(ROOT / f"diffsasrec/{module}.py")
    ours = {n.split(".")[1] for n in names if n.startswith("diffsasrec.")}
    assert {name for name in ours if LEVEL[name] >= LEVEL[module]} == set()


@pytest.mark.parametrize("module", MODULES)
def test_the_library_knows_no_jobs_and_little_ray(module: str):
    roots = {name.split(".")[0] for name in imports_of(ROOT / f"diffsasrec/{module}.py")}
    assert "jobs" not in roots
    assert "ray" not in roots or module in MAY_USE_RAY


def test_nothing_is_named_after_nothing():
    vague = {"utils", "common", "helpers", "base", "manager", "core", "misc"}
    assert vague.isdisjoint(MODULES + [p.stem for p in (ROOT / "jobs").glob("*.py")])


SOURCES = [*ROOT.glob("diffsasrec/*.py"), *ROOT.glob("jobs/*.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_unpickled(path: Path):
    source = path.read_text().replace("safetensors.torch.load(", "")
    assert {"pickle", "cloudpickle", "shelve", "marshal", "joblib", "dill"}.isdisjoint(
        imports_of(path)
    )
    assert "torch.load(" not in source
    assert "allow_pickle=True" not in source
