"""Where a path leads: to a local file, to S3, or into an installed package."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import fsspec

from diffsasrec.config.secrets import without_secrets
from diffsasrec.errors import ConfigError
from diffsasrec.files import local
from diffsasrec.files.patience import PATIENCE, Patience

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def is_s3(url: str) -> bool:
    return url.startswith("s3://")


def open_filesystem(url: str, patience: Patience = PATIENCE) -> tuple[Any, str]:
    """The fsspec filesystem of a local path or s3:// URL, and the path inside it.

    Raises:
        ConfigError: it is a URL of another kind, as a table may name its data files.
    """
    if is_s3(url):
        from diffsasrec.files.s3 import ObjectStore  # every process of a night would wait for it

        return ObjectStore(patience=patience), url.removeprefix("s3://")
    scheme = _SCHEME.match(url)
    if scheme is not None:  # no directory of this machine is called gs:
        raise ConfigError(f"{without_secrets(url)}: {_instead_of(scheme[1].lower())}")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url))


def listing_options(url: str) -> dict[str, Any]:
    """Options of `find` and `glob`: by default, they show an unreadable directory as empty."""
    return {} if is_s3(url) else {"on_error": local.refuse_unreadable}


def resolve_path(path: str, key: str) -> str:
    """The local path or s3:// URL that a path stands for, as in pkg://package/file.

    Raises:
        ConfigError: the package is not installed, or nothing here reads such a URL; `key` is where
            the path comes from.
    """
    scheme = _SCHEME.match(path)
    if scheme is None or scheme[1] == "s3":
        return path
    kind, rest = scheme[1].lower(), scheme[2]
    if kind == "pkg":
        return _in_package(rest, path, key)
    if kind == "file":
        return "/" + rest.removeprefix("localhost").lstrip("/")
    if kind in ("s3", "s3a", "s3n"):
        raise ConfigError(f"{key}={path}: write it as s3://{rest}")
    raise ConfigError(f"{key}={without_secrets(path)}: {_instead_of(kind)}")


def _instead_of(kind: str) -> str:
    if kind in ("http", "https", "ftp"):
        return f"{kind}:// is not read; download the files, and name the local path"
    return (
        f"{kind}:// is not read; copy the files to s3:// or to a local directory, or mount them "
        "and name the local path"
    )


def _in_package(inside: str, path: str, key: str) -> str:
    package, _, name = inside.partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # the parent of a dotted name is missing; no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{key}={path}: package {package} is not installed; pip install it")
    return str(Path(spec.submodule_search_locations[0]) / name)
