"""The source files of the project, found anew at each look; a look that finds none is a fault."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def python_files(*directories: str) -> list[Path]:
    """Every Python file below these directories of the project."""
    found = sorted(path for name in directories for path in (ROOT / name).rglob("*.py"))
    assert found and all(any((ROOT / name) in p.parents for p in found) for name in directories)
    return found


def shown(path: Path) -> str:
    """A path as people name it, for the ids of tests."""
    return str(path.relative_to(ROOT))


def pinned(name: str) -> str:
    """The version of a package in constraints.txt: the one that the whole suite is run on."""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    return pins[name]
