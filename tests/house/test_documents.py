"""The README keeps up with the code."""

import pytest
from pydantic_core import PydanticUndefined
from sources import ROOT

from diffsasrec.config.load import leaf_keys

README = (ROOT / "README.md").read_text()


def config_row(key: str, field) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "required" if default is PydanticUndefined else f"`{default!r}`".replace("None", "null")
    return f"| `{key}` | {shown} | {field.description} |"


@pytest.mark.parametrize(("key", "field"), list(leaf_keys()), ids=lambda value: str(value)[:40])
def test_every_config_key_stands_in_the_table_with_its_default(key, field):
    assert config_row(key, field) in README


def test_every_source_file_stands_in_the_file_map():
    files = README[README.index("## Files") : README.index("## Limits")]
    modules = [path.stem for path in (ROOT / "diffsasrec").glob("*.py") if path.stem != "__init__"]
    jobs = [f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__"]
    assert [name for name in modules + jobs if name not in files] == []


def test_the_table_of_kinds_and_decodings_names_what_is_refused():
    assert "refused: no mask slots" in README
