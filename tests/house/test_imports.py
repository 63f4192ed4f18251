"""What is imported is declared: what others bring today, they may not bring tomorrow."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from sources import ROOT, python_files, shown

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"yaml": "pyyaml"}  # where the name of the package is another
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = python_files("diffsasrec", "jobs")
ELSEWHERE = {"airflow"}  # where Airflow is


def named(requirements: list[str]) -> set[str]:
    names = [re.match(r"[A-Za-z0-9_.-]+", text) for text in requirements]
    return {name[0].lower() for name in names if name}  # a comment has none


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """The packages that a file imports when it is imported, and those that some call imports."""
    tree = ast.parse(path.read_text())
    always: set[str] = set()
    sometimes: set[str] = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        roots = {name.split(".")[0] for name in names} - {"diffsasrec", "jobs"} - ELSEWHERE
        packages = {PACKAGES.get(root, root).lower() for root in roots - sys.stdlib_module_names}
        if node in tree.body:
            always |= packages
        else:
            sometimes |= packages
    return always, sometimes


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_every_package_that_a_source_file_imports_is_declared(path: Path):
    always, sometimes = imports_of(path)
    needed, extra = named(PROJECT["dependencies"]), named([r for e in EXTRAS.values() for r in e])
    of_tests = "faults" in path.parts or path.stem == "top_k_triton"  # Triton: where there is a GPU
    assert always - needed - (extra if of_tests else set()) == set()
    assert sometimes - needed - extra == set()


def test_every_declared_package_has_a_version_that_was_tested():
    tested = named((ROOT / "constraints.txt").read_text().splitlines())
    declared = PROJECT["dependencies"] + [r for e in EXTRAS.values() for r in e]
    bare = named([r for r in declared if ";" not in r]) - {"diffsasrec"}
    assert {name.replace("_", "-") for name in bare} <= {n.replace("_", "-") for n in tested}
