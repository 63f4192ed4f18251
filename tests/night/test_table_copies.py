"""Tables beside the log belong to the run: what they hold when it begins."""

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.items import read_boosts, read_items
from diffsasrec.inputs.side_tables import read_item_ids
from diffsasrec.lake.run_dir import RunDir
from jobs.night.scoring import night_scoring
from jobs.night.table_copies import (
    copy_tables,
    digest_tables,
    exclusion_copies,
    items_of_run,
    previous_vocab_of_run,
    rules_of_run,
)
from jobs.runner.identity import open_run

DAY = date(2024, 3, 1)


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """A config with a table of every kind, in `tables` below the directory of the test."""
    tables = tmp_path / "tables"
    (tables / "exclude").mkdir(parents=True)
    (tables / "deny.csv").write_text("item_id\nb\na\n")
    (tables / "allow.csv").write_text("item_id\na\nb\nc\n")
    (tables / "items.csv").write_text("sku,kind\na,x\nb,y\n")
    (tables / "boost.csv").write_text("boost,item_id\n1,b\n0.5,a\n")
    (tables / "users.csv").write_text("user_id\n2\n1\n")
    (tables / "exclude/one.csv").write_text("user_id,item_id\n1,a\n")
    (tables / "exclude/two").write_text("user_id,item_id\n2,b\n")
    vocab = pa.table({"item_id": ["a", "b"], "index": pa.array([0, 1], pa.int32())})
    Storage.of(str(tables / "vocab")).write_table("part-00000.parquet", vocab)
    return Config.model_validate(
        {
            "lake": str(tmp_path / "lake"),
            "events": {"path": "log"},
            "vocab": {"previous_path": str(tables / "vocab")},
            "items": {
                "path": str(tables / "items.csv"),
                "id_column": "sku",
                "category_column": "kind",
            },
            "score": {
                "deny_path": str(tables / "deny.csv"),
                "allow_path": str(tables / "allow.csv"),
                "exclude_path": str(tables / "exclude"),
                "boost_path": str(tables / "boost.csv"),
                "users_path": str(tables / "users.csv"),
            },
        }
    )


def opened(settings: Config) -> RunDir:
    return open_run(settings, DAY, [], run_id=None)


def held(settings: Config, run: RunDir) -> dict[str, object]:
    """What a run reads of its tables."""
    rules = rules_of_run(settings, run.storage)
    items = read_items(items_of_run(settings, run.storage))
    previous = previous_vocab_of_run(settings, run.storage, pa.string())
    assert rules.deny_path and rules.allow_path and rules.boost_path
    assert items is not None and previous is not None
    return {
        "deny": sorted(read_item_ids(rules.deny_path, "key").to_pylist()),
        "allow": sorted(read_item_ids(rules.allow_path, "key").to_pylist()),
        "boost": read_boosts(rules.boost_path).select(["item_id", "boost"]).to_pylist(),
        "items": items.to_pylist(),
        "vocab": previous["item_id"].to_pylist(),
    }


def test_a_run_keeps_the_tables_that_it_began_with(settings, tmp_path):
    run = opened(settings)
    copy_tables(settings, run)
    before = held(settings, run)
    assert before["deny"] == ["a", "b"] and before["vocab"] == ["a", "b"]
    assert before["items"] == [
        {"item_id": "a", "title": None, "category": "x"},
        {"item_id": "b", "title": None, "category": "y"},
    ]
    assert before["boost"] == [{"item_id": "a", "boost": 0.5}, {"item_id": "b", "boost": 1.0}]
    for name in ("deny.csv", "allow.csv", "boost.csv", "items.csv", "vocab/part-00000.parquet"):
        (tmp_path / "tables" / name).unlink()
    (tmp_path / "tables/exclude/one.csv").write_text("user_id,item_id\n7,z\n")
    assert night_scoring(settings, run).rules == rules_of_run(settings, run.storage)
    copy_tables(settings, run)  # of a second attempt: the first one's copies count
    assert held(settings, run) == before
    pairs = [run.lake.read_table(p.removeprefix(f"{run.lake.root}/")).to_pylist()
             for p in exclusion_copies(run.storage)]  # fmt: skip
    assert sorted(pairs, key=str) == [
        [{"user_id": "1", "item_id": "a"}],
        [{"user_id": "2", "item_id": "b"}],
    ]


def test_the_same_tables_written_again_are_the_same_run_and_others_are_another(settings, tmp_path):
    first = opened(settings)
    for path in sorted((tmp_path / "tables").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
            os.utime(path, (1, 1))
    (tmp_path / "tables/exclude/one.csv").rename(tmp_path / "tables/exclude/zzz.csv")
    assert opened(settings).run_id == first.run_id
    for name, row in {
        "deny.csv": "c\n",
        "allow.csv": "d\n",
        "items.csv": "c,x\n",
        "boost.csv": "2,c\n",
        "users.csv": "3\n",
        "exclude/two": "3,c\n",
    }.items():
        path = tmp_path / "tables" / name
        before = path.read_text()
        path.write_text(before + row)
        assert opened(settings).run_id != first.run_id, name
        path.write_text(before)
    assert opened(settings).run_id == first.run_id


@pytest.mark.parametrize("name", ["deny.csv", "items.csv", "exclude/two"])
def test_a_table_that_changes_before_it_is_copied_is_named(settings, tmp_path, name):
    run = opened(settings)
    path = tmp_path / "tables" / name
    path.write_text(path.read_text() + ("c,x\n" if "," in path.read_text() else "c\n"))
    with pytest.raises(InputDataError, match="has changed since the run began"):
        copy_tables(settings, run)


def test_exclusions_that_other_jobs_add_meanwhile_are_those_of_the_next_run(settings, tmp_path):
    run = opened(settings)
    (tmp_path / "tables/exclude/new.csv").write_text("user_id,item_id\n9,c\n")
    copy_tables(settings, run)
    assert len(exclusion_copies(run.storage)) == 2
    assert opened(settings).run_id != run.run_id


def test_a_run_without_copies_reads_what_its_config_names(settings):
    run = replace(opened(settings), run_id="of an earlier version")
    assert held(settings, run)["deny"] == ["a", "b"]
    assert items_of_run(settings, run.storage) == settings.items


@pytest.mark.parametrize("path", ["nowhere.csv", "nowhere", "tables/deny.csv"])
def test_exclusions_that_are_no_pairs_are_refused_before_a_run_has_a_name(settings, tmp_path, path):
    score = settings.score.model_copy(update={"exclude_path": str(tmp_path / path)})
    with pytest.raises(ConfigError, match=rf"score\.exclude_path=.*{path}"):
        opened(settings.model_copy(update={"score": score}))


def test_an_empty_directory_excludes_nothing(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    score = settings.score.model_copy(update={"exclude_path": str(tmp_path / "empty")})
    config = settings.model_copy(update={"score": score})
    run = opened(config)
    assert digest_tables(config)["exclude"] == []
    copy_tables(config, run)
    assert exclusion_copies(run.storage) == []
