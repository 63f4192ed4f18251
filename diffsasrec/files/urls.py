"""Where a path leads: to a local file, to S3, or into an installed package."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import fsspec

from diffsasrec.errors import ConfigError
from diffsasrec.files import local
from diffsasrec.files.patience import PATIENCE, Patience


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def open_filesystem(url: str, patience: Patience = PATIENCE) -> tuple[Any, str]:
    """The fsspec filesystem of a local path or s3:// URL, and the path inside it."""
    if is_s3(url):
        from diffsasrec.files.s3 import ObjectStore  # every process of a night would wait for it

        return ObjectStore(patience=patience), url.removeprefix("s3://")
    return fsspec.filesystem("file"), os.path.abspath(url)


def listing_options(url: str) -> dict[str, Any]:
    """Options of `find` and `glob`: by default, they show an unreadable directory as empty."""
    return {} if is_s3(url) else {"on_error": local.refuse_unreadable}


def resolve_package(path: str, key: str) -> str:
    """The path behind pkg://package/file; every other path stays as it is.

    Raises:
        ConfigError: the package is not installed; `key` is where the path comes from.
    """
    if not path.startswith("pkg://"):
        return path
    package, _, inside = path.removeprefix("pkg://").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # the parent of a dotted name is missing; no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{key}={path}: package {package} is not installed; pip install it")
    return str(Path(spec.submodule_search_locations[0]) / inside)
