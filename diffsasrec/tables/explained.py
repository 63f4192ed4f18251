"""Errors of catalogs, of their drivers and of table formats, in words of ours."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from diffsasrec.config.data import EventsConfig
from diffsasrec.config.secrets import without_secrets
from diffsasrec.errors import ConfigError, DiffsasrecError

REMEDY = {
    "iceberg": "check events.table_catalog and events.table_properties, and what ~/.pyiceberg.yaml "
    "and the PYICEBERG_ variables say of that catalog",
    "delta": "check the path, events.table_version and the permissions",
}


def needs(package: str, extra: str, events: EventsConfig) -> None:
    """Raises ConfigError unless an optional package is installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{events.source} needs {package}, which is not installed; pip install "
            f"'diffsasrec[{extra}]'"
        )


@contextmanager
def explained(events: EventsConfig) -> Iterator[None]:
    """Turns an error of a catalog or a table format into a ConfigError."""
    try:
        yield
    except DiffsasrecError:
        raise
    except Exception as error:  # of a database, an HTTP client or a store: they share no base
        text = (str(error).strip().splitlines() or ["no message"])[0]
        raise ConfigError(
            f"{events.source} can't be opened: {type(error).__name__}: {without_secrets(text)}; "
            f"{REMEDY[events.table_format]}"
        ) from None
