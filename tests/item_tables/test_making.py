"""The files of the tables of items: written once, counted, expected; the half-life they use."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from item_catalogues import items_of
from similar_logs import histories_of

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.item_tables import all_items
from diffsasrec.item_tables.neighbours import OccurringTogether
from diffsasrec.item_tables.popular import of_categories
from diffsasrec.lake.run_dir import RunDir
from jobs.item_tables.checking import expected_files
from jobs.item_tables.making import COUNTED, Making, count_part, make_part
from jobs.item_tables.night_items import chosen_half_life

LEAST = "lake: lake\nevents: {path: log.parquet}\n"


def config_of(*sets: str) -> Config:
    return load_config(LEAST, list(sets))


def making() -> Making:
    """Of six items and a fruit that only the metadata has; a user has had the first two."""
    items = items_of(new=("quince",))
    source = OccurringTogether.of(
        histories_of([[(0, 1), (1, 2)]]), items, by="users", max_per_category=None
    )
    popular = of_categories(items, np.array([2.0, 1, 0, 0, 0, 0, 0]), 3)
    return Making(items, source, popular, k=2, by="users")


def test_a_file_holds_a_range_of_items_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(all_items, "PART", 4)
    storage, made = Storage.of(str(tmp_path)), making()
    for number in range(made.items.num_parts):
        make_part(number, storage, made)
    first, second = (storage.read_table(info.path) for info in storage.list("similar_items"))
    assert first["item_id"].to_pylist() == ["apple", "pear", "plum", "plum"]
    assert second["item_id"].to_pylist() == ["quince", "quince"]  # glue and tools have nothing
    assert count_part(0, storage, made.items) == dict(zip(COUNTED, (4, 2, 1, 1), strict=True))
    assert count_part(1, storage, made.items) == dict(zip(COUNTED, (2, 0, 1, 2), strict=True))


def test_what_an_earlier_attempt_has_written_stays_and_another_writes_the_same(tmp_path: Path):
    storage, other = Storage.of(str(tmp_path / "a")), Storage.of(str(tmp_path / "b"))
    make_part(0, storage, making())
    make_part(0, other, making())
    (path,) = [info.path for info in storage.list()]
    assert storage.read_bytes(path) == other.read_bytes(path)
    storage.write_bytes(path, b"of an earlier attempt")
    make_part(0, storage, making())
    assert storage.read_bytes(path) == b"of an earlier attempt"


def test_only_the_tables_that_are_asked_for_are_expected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_items, "PART", 4)
    items = items_of()
    similar = {f"similar_items/part-0000{n}.parquet" for n in (0, 1)}
    trending = {"trending/part-00000.parquet"}
    assert not config_of().makes_item_tables and expected_files(config_of(), items) == set()
    assert expected_files(config_of("similar_items.k=3"), items) == similar
    assert expected_files(config_of("trending.k=3"), items) == trending
    assert expected_files(config_of("similar_items.k=3", "trending.k=3"), items) == (
        similar | trending
    )


@pytest.mark.parametrize("is_cited", [False, True])
def test_the_half_life_is_that_of_the_night_that_measured_the_weights(
    tmp_path: Path, is_cited: bool
):
    run = RunDir(Storage.of(str(tmp_path)), "2024-03-01", "x", "identity", "attempt")
    metrics = {"settings": {"decayed popular": {"half_life_days": 1 / 24}}}
    record = {"counts": {}, "popular_window": 0}
    if is_cited:
        record["metrics"] = metrics
    else:
        run.storage.write_bytes("metrics.json", to_json(metrics))
    run.finish("evaluate", record)
    assert chosen_half_life(run) == 1 / 24


def test_items_of_any_type_of_id_are_found_again():
    for kind in (pa.int32(), pa.uint64(), pa.string()):
        ids = pa.array([7, 5]).cast(kind)
        vocab = pa.table({"item_id": ids})
        items = all_items.AllItems.of(vocab, vocab, np.ones(2, bool), None)
        assert items.number_of(ids).tolist() == [0, 1]
        assert items.number_of(pa.array(["5", "9"])).tolist() == [1, -1]
