"""Iceberg catalogs in a directory."""

from pathlib import Path

from diffsasrec.config.serving import IcebergConfig


def settings_in(directory: Path, table: str = "shop.lists") -> IcebergConfig:
    directory.mkdir(exist_ok=True)
    properties = {"type": "sql", "uri": f"sqlite:///{directory}/catalog.db"}
    properties["warehouse"] = f"file://{directory}/warehouse"
    return IcebergConfig(table=table, catalog="test", properties=properties)


def catalog_of(settings: IcebergConfig):
    from pyiceberg.catalog import load_catalog

    return load_catalog(settings.catalog, **settings.properties)
