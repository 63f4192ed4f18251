"""The Iceberg table: its types, what fits it, and what is refused before any work."""

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from catalogs import catalog_of, settings_in

from diffsasrec.config.load import load_config
from diffsasrec.config.serving import IcebergConfig
from diffsasrec.errors import ConfigError
from diffsasrec.lake.iceberg_table import check_table, id_type, table_schema, to_partition
from diffsasrec.schema import recommendations_schema

LEAST = "lake: lake\nevents: {path: log.parquet}\n"
INT64, STRING = pa.int64(), pa.string()


@pytest.fixture
def settings(tmp_path: Path) -> IcebergConfig:
    return settings_in(tmp_path / "catalog")


def refusal(settings: IcebergConfig, *ids: pa.DataType, create: bool = True) -> str:
    with pytest.raises(ConfigError) as caught:
        check_table(settings, *(ids or (INT64, STRING)), create=create)
    return str(caught.value)


@pytest.mark.parametrize(
    ("stored", "iceberg"),
    [
        (pa.int8(), "int"),
        (pa.int32(), "int"),
        (pa.int64(), "long"),
        (pa.uint16(), "int"),
        (pa.uint32(), "long"),
        (pa.uint64(), "decimal(20, 0)"),
        (pa.string(), "string"),
    ],
)
def test_ids_get_the_narrowest_type_that_holds_them_all(stored: pa.DataType, iceberg: str):
    assert str(id_type(stored)) == iceberg


def test_a_part_becomes_rows_of_a_date_and_loses_no_id():
    top = 2**64 - 1
    row = {"user_id": top, "items": [{"item_id": 2**32 - 1, "score": -0.5, "rank": 1}]}
    row |= {"source": "model", "history_len": 3, "model_version": "abc"}
    part = pa.Table.from_pylist([row], recommendations_schema(pa.uint64(), pa.uint32()))
    rows = to_partition(part, "2024-03-01")
    assert rows["user_id"].to_pylist() == [top]
    assert rows["items"].to_pylist() == [row["items"]]
    assert str(rows["ds"][0]) == "2024-03-01"
    assert rows.column_names == [*part.column_names, "ds"]


def test_a_missing_table_is_made_with_a_partition_per_date(settings: IcebergConfig):
    check_table(settings, INT64, STRING, create=True)
    table = catalog_of(settings).load_table("shop.lists")
    assert [str(field.transform) for field in table.spec().fields] == ["identity"]
    assert table.schema().as_struct() == table_schema(INT64, STRING).as_struct()
    assert table.current_snapshot() is None
    check_table(settings, INT64, STRING, create=True)  # and is left as it is


def test_a_dry_run_makes_no_table(settings: IcebergConfig):
    check_table(settings, INT64, STRING, create=False)
    assert catalog_of(settings).list_namespaces() == []


def test_a_table_for_other_ids_is_refused_with_both_types(settings: IcebergConfig):
    check_table(settings, INT64, STRING, create=True)
    message = refusal(settings, STRING, STRING)
    assert "column user_id is int64, not large_string" in message


def test_a_table_that_is_not_partitioned_by_date_is_refused(settings: IcebergConfig):
    catalog = catalog_of(settings)
    catalog.create_namespace("shop")
    catalog.create_table("shop.lists", table_schema(INT64, STRING))
    assert "identity(ds)" in refusal(settings)


def test_a_table_may_have_more_columns_but_must_have_ours(settings: IcebergConfig):
    from pyiceberg.types import StringType

    check_table(settings, INT64, STRING, create=True)
    table = catalog_of(settings).load_table("shop.lists")
    with table.update_schema() as update:
        update.add_column("note", StringType())
    check_table(settings, INT64, STRING, create=True)
    with table.update_schema() as update:
        update.delete_column("source")
    assert "no column source" in refusal(settings)


def test_a_catalog_that_can_t_be_reached_is_named_without_its_password(monkeypatch):
    uri = "http://user:sesame@127.0.0.1:9/catalog"
    monkeypatch.setenv("PYICEBERG_CATALOG__AWAY__URI", uri)
    properties = {"type": "rest", "uri": uri}
    message = refusal(IcebergConfig(table="a.b", catalog="away", properties=properties))
    assert "catalog away failed" in message
    assert "~/.pyiceberg.yaml" in message
    assert "sesame" not in message


def test_a_warehouse_that_can_t_be_written_to_is_said_before_any_work(tmp_path: Path):
    (tmp_path / "warehouse").write_text("a file where a directory must be")
    assert "catalog test failed" in refusal(settings_in(tmp_path))


def test_without_pyiceberg_the_extra_is_named(settings: IcebergConfig, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    assert "pip install 'diffsasrec[iceberg]'" in refusal(settings)


# --- the configuration ---


def test_no_table_is_written_unless_one_is_named():
    assert load_config(LEAST).iceberg == IcebergConfig(table=None, catalog="default", properties={})


def test_a_table_without_a_namespace_is_refused():
    with pytest.raises(ConfigError, match=r"iceberg\.table"):
        load_config(LEAST, ["iceberg.table=lists"])


def test_nested_properties_are_the_dotted_ones():
    sets = ["iceberg.properties.s3.endpoint=http://store", "iceberg.properties.ssl=false"]
    properties = load_config(LEAST, sets).iceberg.properties
    assert properties == {"s3.endpoint": "http://store", "ssl": "false"}


@pytest.mark.parametrize(
    "override",
    [
        "s3.secret-access-key=sesame",
        "s3.access-key-id=sesame",
        "token=sesame",
        "credential=client:sesame",
        "password=1234567",
        "adls.account-key=sesame",
        "uri=postgresql://db/catalog?user=me&password=sesame",
        "uri=postgresql://me:sesame@db/catalog",
    ],
)
def test_a_property_that_looks_like_a_secret_is_refused_and_not_repeated(override: str):
    with pytest.raises(ConfigError) as caught:
        load_config(LEAST, [f"iceberg.properties.{override}"])
    message = str(caught.value)
    assert override.partition("=")[0] in message
    assert "sesame" not in message and "1234567" not in message
