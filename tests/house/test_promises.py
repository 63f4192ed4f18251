"""What the documents promise to those who run it: rights that suffice, and readers."""

import fnmatch
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
import s3fs
from lakes import published_lake

from diffsasrec.config.data import EventsConfig
from diffsasrec.files.storage import Storage
from diffsasrec.formats.listing import list_files
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.prune import prune
from jobs.faults.rig.nights import DATE, ROOT, toy_log
from jobs.faults.rig.s3_server import BUCKET


def block(page: str, title: str, language: str) -> str:
    """The first code block of a language below a heading of a page of docs/."""
    text = (ROOT / "docs" / page).read_text()
    text = text[text.index(title) :]
    return text.split(f"```{language}\n", 1)[1].split("```", 1)[0]


# what each call to S3 needs of a policy, on the object or bucket that it names
RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
Right = tuple[str, str, str | None]  # action, resource, listed prefix


def rights_of(operation: str, parameters: dict[str, str]) -> set[Right]:
    bucket = f"arn:aws:s3:::{parameters['Bucket']}"
    action = RIGHTS[operation]
    if action == "s3:ListBucket":
        return {(action, bucket, parameters.get("Prefix"))}
    source = parameters.get("CopySource")
    needed: set[Right] = {(action, f"{bucket}/{parameters['Key']}", None)}
    if source is not None:
        path = source if isinstance(source, str) else f"{source['Bucket']}/{source['Key']}"
        needed.add(("s3:GetObject", f"arn:aws:s3:::{path}", None))
    return needed


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allows(statement: dict, right: Right) -> bool:
    action, resource, prefix = right
    prefixes = statement.get("Condition", {"StringLike": {"s3:prefix": ["*"]}})["StringLike"]
    return (
        action in listed(statement["Action"])
        and any(fnmatch.fnmatchcase(resource, r) for r in listed(statement["Resource"]))
        and (
            action != "s3:ListBucket"
            or any(fnmatch.fnmatchcase(prefix or "", p) for p in prefixes["s3:prefix"])
        )
    )


@pytest.fixture
def calls(s3: str) -> Iterator[list[tuple[str, dict]]]:
    """Every call to S3 that is made in this process, as it is made."""
    made: list[tuple[str, dict]] = []

    def note(params: dict, model: Any, **_: object) -> None:
        made.append((model.name, params))

    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = Storage(s3)._fs()
    filesystem.connect()
    filesystem.s3.meta.events.register("provide-client-params.s3", note)
    yield made
    s3fs.S3FileSystem.clear_instance_cache()


def use_everything(s3: str) -> None:
    """What a night does to the log and the lake, by all the verbs that it has for that."""
    for path in ("log", "log/", "log/*.parquet", "log/events.parquet"):
        events = EventsConfig(path=f"{s3}/{path}", time_unit="s")
        inspect_inputs(list_inputs(events, run_date=date.fromisoformat(DATE)), events)
    list_files(f"{s3}/log")
    lake = published_lake(f"{s3}/recommender", "first", "second")
    lake.check_writable()
    assert lake.has_create_only()
    assert lake.list("runs") and not lake.exists("nothing") and not lake.list("nothing")
    with pytest.raises(FileNotFoundError):
        lake.read_bytes("nothing")
    lake.read_tables(f"runs/ds={DATE}/first/recommendations", ["user_id"])
    lake.write_bytes("large", bytes(110 * 2**20))  # in parts
    lake.create("large-too", bytes(110 * 2**20))
    lake.copy("large", "copied")
    lake.delete(["large", "large-too", "copied", "nothing"])
    settle(lake, grace=0)
    assert prune(lake, keep=1, grace=0)


def test_the_policy_of_the_documents_is_enough_and_not_more(s3: str, calls: list, tmp_path: Path):
    toy_log().to_parquet(tmp_path / "events.parquet")
    upload = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    upload.put_file(str(tmp_path / "events.parquet"), f"{BUCKET}/log/events.parquet")
    text = re.sub("LOG-BUCKET|LAKE-BUCKET", BUCKET, block("deploy.md", "## Rights", "json"))
    policy = json.loads(text)["Statement"]
    use_everything(s3)
    needed = {right for call in calls for right in rights_of(*call)}
    assert len(needed) > 30
    assert [r for r in sorted(needed, key=str) if not any(allows(s, r) for s in policy)] == []
    granted = {(s["Sid"], action) for s in policy for action in listed(s["Action"])}
    used = {(s["Sid"], right[0]) for s in policy for right in needed if allows(s, right)}
    # asked for only where an upload in parts breaks off
    assert granted - used == {("KeepTheLake", "s3:AbortMultipartUpload")}


def test_the_readers_of_the_documents_see_the_newest_run_and_nothing_else(tmp_path: Path):
    published_lake(tmp_path / "lake", "first", "second")
    sql = block("reading.md", "## Following the chain", "sql")
    sql = sql.replace("'lake/", f"'{tmp_path}/lake/")
    rows = duckdb.connect().execute(sql).fetchall()
    assert sorted(row[:2] for row in rows) == [(user, "of second") for user in (1, 2, 3)]
    scope: dict = {}
    code = block("reading.md", "## Following the chain", "python")
    exec(code.replace("s3://bucket/recommender", f"{tmp_path}/lake"), scope)
    assert sorted(pd.read_parquet(scope["path"]).user_id) == [1, 2, 3]
    assert scope["path"].endswith(f"runs/ds={DATE}/second/recommendations")
