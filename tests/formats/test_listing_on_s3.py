"""What a listing of S3 takes for a file."""

import pytest
from written_logs import RUN_DATE, config

from diffsasrec.errors import ConfigError
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.listing import list_files
from diffsasrec.inputs.log_files import list_log
from jobs.faults.rig.s3_server import BUCKET


def put(s3: str, *keys: str, body: bytes = b"") -> None:
    filesystem, _ = open_filesystem(s3)
    for key in keys:
        filesystem.call_s3("put_object", Bucket=BUCKET, Key=key, Body=body)


def test_empty_objects_that_stand_for_directories_are_no_files(s3):
    put(s3, "marked/", "marked/dt=1/", "marked/dt=2_$folder$", "marked/_SUCCESS")
    put(s3, "marked/dt=1/a.csv", "marked/dt=2/b.csv", body=b"x")
    put(s3, "marked/dt=2/empty.csv")
    expected = [f"{s3}/marked/dt={name}" for name in ("1/a.csv", "2/b.csv", "2/empty.csv")]
    for path in ("marked", "marked/", "marked/*/*.csv", "marked/dt=*", "marked/{dt=1,dt=2}/*.csv"):
        found = list_files(f"{s3}/{path}", may_be_glob=True)
        assert [file.path for file in found.files] == expected, path
    assert [str(each) for each in list_files(f"{s3}/marked").left_out] == [
        f"1 hidden, for example {s3}/marked/_SUCCESS"
    ]


def test_a_key_with_brackets_is_no_glob(s3):
    put(s3, "odd/[prod]/a b+%41.csv", body=b"x")
    [file] = list_files(f"{s3}/odd/[prod]", may_be_glob=True).files
    assert file.path == f"{s3}/odd/[prod]/a b+%41.csv"


@pytest.mark.parametrize("path", ["", "dt=1/", "*.parquet", "data"])
def test_the_files_of_a_table_on_s3_are_refused(s3, path):
    put(s3, "delta/_delta_log/0.json", "delta/a.parquet", "delta/dt=1/b.parquet", body=b"x")
    put(s3, "berg/metadata/v1.metadata.json", "berg/data/a.parquet", body=b"x")
    table = "berg" if path == "data" else "delta"
    with pytest.raises(ConfigError, match=rf"/{table} is a table of .*events\.table"):
        list_log(config(f"{s3}/{table}/{path}"), run_date=RUN_DATE)
