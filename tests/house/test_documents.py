"""The documents keep up with the code: keys, links, commands and options that they name exist."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

import pytest
import yaml
from sources import ROOT, shown

from diffsasrec.config.load import load_config
from diffsasrec.config.reference import BASIC, configuration_page
from diffsasrec.lake.stages import STAGES
from jobs.benchmark.arguments import MEASURES, parse_benchmark
from jobs.experiment.arguments import parse_experiment
from jobs.init.arguments import parse_init
from jobs.report.arguments import parse_report
from jobs.runner.arguments import parse_backfill, parse_stages
from jobs.runner.entry import COMMANDS
from jobs.show.arguments import parse_show
from jobs.submit.arguments import parse_submit

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
MOST_LINES_OF_README = 150

PARSERS: dict[str, Callable[[list[str]], object]] = {
    "nightly": partial(parse_stages, STAGES),
    **{stage: partial(parse_stages, (stage,)) for stage in STAGES},
    "backfill": parse_backfill,
    "init": parse_init,
    "report": parse_report,
    "show": parse_show,
    "submit": parse_submit,
    "experiment": parse_experiment,
}
OPTION = re.compile(r"--[a-z][a-z-]*")
# of other programs: ray, pip, kubectl, pytest, git
FOREIGN = {"--head", "--dashboard-host", "--port", "--dashboard-port", "--object-store-memory"}
FOREIGN |= {"--generate", "--help"}


def options_in_help(parse: Callable[[list[str]], object], *before: str) -> set[str]:
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        parse([*before, "--help"])
    return set(OPTION.findall(text.getvalue()))


def options_of(job: str, words: str) -> set[str]:
    if job == "benchmark":
        return options_in_help(parse_benchmark, words.split()[0])
    return options_in_help(PARSERS[job])


def all_options() -> set[str]:
    measured = [options_in_help(parse_benchmark, name) for name in MEASURES]
    return set.union(*measured, *(options_in_help(parse) for parse in PARSERS.values()))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The headings of a page as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        assert plain not in found, f"{path}: two headings {heading}"
        found.add(plain)
    return found


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Every `jobs.x` that is run, with the words behind it up to the end of the command."""
    joined = re.sub(r" *\\\n *", " ", text)
    for name, words in re.findall(r"\bjobs\.([a-z_]+)((?: [^\s`|&>#;]+)*)", joined):
        if name != "x":  # any of them
            yield name, words.partition(" -- ")[0]


def test_the_page_of_the_configuration_is_current():
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == configuration_page(), "run `make docs`"


def test_the_basic_keys_come_first_and_every_key_once():
    keys = re.findall(r"^\| `([\w.]+)` \|", configuration_page(), re.M)
    assert tuple(keys[: len(BASIC)]) == BASIC
    assert len(keys) == len(set(keys))


def test_allowed_values_and_ranges_stand_in_the_page():
    rows = configuration_page().splitlines()
    (decode,) = [row for row in rows if row.startswith("| `score.decode`")]
    assert "| `single` | `single`, `multi`, `autoregressive` |" in decode
    (quantile,) = [row for row in rows if row.startswith("| `split.quantile`")]
    assert "| `0.95` | 0 < number < 1 |" in quantile
    (lake,) = [row for row in rows if row.startswith("| `lake`")]
    assert "| required | text |" in lake


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES_OF_README


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert pages and [name for name in pages if f"]({name})" not in index] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_link_leads_to_a_file_and_a_heading(path: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_command_and_its_options_exist(path: Path):
    for name, words in commands(path.read_text()):
        package, module = ROOT / f"jobs/{name}/__main__.py", ROOT / f"jobs/{name}.py"
        if name in PARSERS or name == "benchmark":
            assert package.exists() or module.exists()
            if options := set(OPTION.findall(words)):
                assert options <= options_of(name, words), f"jobs.{name}{words}"
        else:
            assert (ROOT / f"jobs/{name}").is_dir(), f"jobs.{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_word_of_the_command_exists(path: Path):
    words = re.findall(r"(?:`|^)diffsasrec ([a-z]+)", path.read_text(), re.M)
    assert set(words) - {"x"} <= set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_option_of_ours_exists(path: Path):
    named = re.findall(r"`(--[a-z][a-z-]*)", path.read_text())
    assert set(named) - FOREIGN <= all_options()


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_file_that_is_named_exists(path: Path):
    text = path.read_text()
    named = re.findall(r"`((?:diffsasrec|jobs|tests|docs)/[\w./-]+)(?::\w+)?`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_function_that_is_named_stands_in_its_file(path: Path):
    named = re.findall(r"`((?:diffsasrec|jobs)/[\w./]+\.py):(\w+)`", path.read_text())
    missing = [
        f"{name}:{function}"
        for name, function in named
        if not re.search(
            rf"^(?:def {function}\(|class {function}\b|{function}\b.* = )",
            (ROOT / name).read_text(),
            re.M,
        )
    ]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_configuration_in_the_documents_loads(path: Path):
    for text in blocks(path.read_text(), "yaml"):
        values = {"lake": "lake"} | yaml.safe_load(text)
        events = values.get("events", {})
        values["events"] = events if "table" in events else {"path": "log"} | events
        load_config(yaml.safe_dump(values), source=text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_key_that_is_named_exists(path: Path):
    keys = set(re.findall(r"^\| `([\w.]+)` \|", configuration_page(), re.M))
    sections = {key.split(".")[0] for key in keys if "." in key}
    for named in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", path.read_text()):
        if named.split(".")[0] in sections and not named.endswith((".py", ".md", ".json")):
            assert named in keys or any(key.startswith(f"{named}.") for key in keys), named
