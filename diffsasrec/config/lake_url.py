"""The spelling of a lake: one for each lake, and no path that only looks like a store."""

import os
import re

from diffsasrec.config.secrets import without_secrets

# s3:/bucket, s3//bucket, S3://bucket, s3a://bucket, s3:///bucket, file:///path
_SCHEME = re.compile(r"(s3[an]?|file)(:/*|//+)", re.IGNORECASE)
# gs://bucket, gs:/bucket, which is no directory either
_ELSEWHERE = re.compile(
    r"((?:gcs|gs|abfss?|wasbs?|adl|az|azure|hdfs|viewfs|webhdfs|https?|ftp)(?=:/)"
    r"|[a-z][a-z0-9+.-]*(?=://))",
    re.IGNORECASE,
)


def normalised(lake: str) -> str:
    """The one spelling of a lake: no doubled or trailing slashes, no `.`; relative stays relative.

    Raises:
        ValueError: it is neither a local directory nor s3://bucket/prefix; names the corrected
            spelling.
    """
    if lake != lake.strip() or not lake:
        raise ValueError(f"lake={lake!r}: {_GIVE}, without spaces around it")
    scheme = _SCHEME.match(lake)
    if scheme is not None:
        return _of_scheme(lake, scheme)
    elsewhere = _ELSEWHERE.match(lake)
    if elsewhere is not None:
        told = without_secrets(lake)
        raise ValueError(f"lake={told}: no lake can lie in {elsewhere[1].lower()}://; {_GIVE}")
    if "://" in lake:
        raise ValueError(f"lake={lake}: {_GIVE}")
    path = re.sub(r"^/+", "/", os.path.normpath(lake))
    if path == "/":
        raise ValueError(f"lake={lake} is the root of this machine; {_GIVE}")
    return path


_GIVE = "give a local directory or s3://bucket/prefix"


def _of_scheme(lake: str, scheme: re.Match[str]) -> str:
    parts = [part for part in lake[scheme.end() :].split("/") if part not in ("", ".")]
    if scheme[1].lower() == "file":
        raise ValueError(f"lake={lake}: write a local directory as /{'/'.join(parts)}")
    if not parts:
        raise ValueError(f"lake={lake} names no bucket; {_GIVE}")
    if ".." in parts:
        raise ValueError(f"lake={lake} has a '..', which is a name like any other in a store")
    url = f"s3://{'/'.join(parts)}"
    if scheme[0] != "s3://":
        raise ValueError(f"lake={lake}: write it as {url}")
    return url


def located(lake: str) -> str:
    """A normalised lake as an absolute path; the URL of a store stays as it is.

    Symbolic links stay: they may lead elsewhere on another node.
    """
    if lake.startswith("s3://"):
        return lake
    return os.path.abspath(os.path.expanduser(lake))
