"""The mark of a local lake. It tells a lake from a mount that is not there.

An empty directory may be a new lake, or the place of a disk or share that is not mounted. A night
that takes it for a new lake would fill the root disk, and the next mount would hide its lists. So a
local lake carries a mark from its first night on, made by --new-lake. A store needs none: a missing
bucket is an error.
"""

import logging
import os
import shlex
import sys

from diffsasrec.config.lake_url import located, normalised
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.chain import CHAIN

log = logging.getLogger("jobs")

MARK = "_lake.json"
CONTENT = {
    "layout": 1,
    "what": "a lake of diffsasrec; a local directory without this file is not taken for one",
}


def open_lake(text: str, *, option: str = "--lake") -> Storage:
    """The storage of a lake that a command line names.

    Raises:
        ConfigError: it is no local directory and no s3://bucket/prefix.
    """
    try:
        return Storage.of(located(normalised(text)))
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def has_mark(lake: Storage) -> bool:
    """Whether there is a lake, as far as that can be known without writing."""
    return not lake.is_local or lake.exists(MARK) or _is_of_earlier_version(lake)


def require_mark(
    lake: Storage, *, is_new: bool = False, is_dry: bool = False, remedy: str | None = None
) -> None:
    """Refuses a local directory that is no lake; a new one is marked.

    A lake of an earlier version, which has a publication and no mark, gets one as well.

    Args:
        is_new: --new-lake was given.
        is_dry: nothing is written.
        remedy: what makes the lake; None: the command that runs, with --new-lake.

    Raises:
        ConfigError: there is no lake.
    """
    if not lake.is_local or lake.exists(MARK):
        return
    if not is_new and not _is_of_earlier_version(lake):
        how = remedy or f"make it once with: {shlex.join([*sys.orig_argv, '--new-lake'])}"
        raise ConfigError(f"{why_none(lake)}; mount it, or correct the path; if it is new, {how}")
    if is_dry:
        log.info("lake: %s is new, and a night makes its mark %s", lake.root, MARK)
    else:
        lake.create(MARK, to_json(CONTENT))


def require_lake(lake: Storage) -> None:
    """Refuses to read where there is no lake.

    Raises:
        ConfigError: there is none.
    """
    if not has_mark(lake):
        raise ConfigError(f"{why_none(lake)}; a night with --new-lake makes one")


def why_none(lake: Storage) -> str:
    return (
        f"lake={lake.root} is no lake: it has no {MARK} and nothing is published there, which is "
        "what a missing mount looks like"
    )


def _is_of_earlier_version(lake: Storage) -> bool:
    return any(info.path.endswith(".json") for info in lake.list(CHAIN))


IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's job server for the command that it runs


def refuse_passing_lake(lake: str) -> None:
    """Refuses a relative lake in a submitted job: the job runs in a copy that is deleted after it.

    Raises:
        ConfigError: the lake would lie in there.
    """
    if IN_A_JOB in os.environ and not lake.startswith("s3://") and not os.path.isabs(lake):
        raise ConfigError(
            f"lake={lake} is relative, and a submitted job runs in a directory that is "
            "deleted after it; give s3://bucket/prefix, or an absolute path that all nodes share"
        )
