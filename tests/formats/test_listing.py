"""Which files a path names, and what of it is left out."""

import gzip
import io
import zipfile
from datetime import date

import pytest
from written_logs import CSV, config, listed, raw_rows, touch

from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.urls import open_filesystem
from diffsasrec.formats.listing import LeftOut, list_files
from diffsasrec.inputs.log_files import list_log

RUN_DATE = date(2024, 1, 10)


def names(path, may_be_glob=True):
    return [file.path.rpartition("/")[2] for file in list_files(str(path), may_be_glob=True).files]


# --- globs ---


def test_a_glob_may_end_its_fixed_part_in_the_middle_of_a_name(tmp_path):
    touch(tmp_path, "log.csv", "log1.csv", "log_2.csv", "log.3.csv", "other.csv")
    assert names(tmp_path / "log*.csv") == ["log.3.csv", "log.csv", "log1.csv", "log_2.csv"]
    assert names(tmp_path / "log_*.csv") == ["log_2.csv"]
    touch(tmp_path, "shop-de/a.csv", "shop_de/b.csv", "shop.de/c.csv")
    assert sorted(names(tmp_path / "shop?de" / "*.csv")) == ["a.csv", "b.csv", "c.csv"]


def test_a_path_that_exists_is_no_glob(tmp_path):
    touch(tmp_path, "[prod]/log/a.csv", "log[1].csv", "log1.csv", "what?/b.csv", "whats/c.csv")
    assert names(tmp_path / "[prod]/log") == ["a.csv"]
    assert names(tmp_path / "log[1].csv") == ["log[1].csv"]
    assert names(tmp_path / "what?") == ["b.csv"]


def test_braces_are_one_name_or_another(tmp_path):
    touch(tmp_path, "a.csv", "b.csv", "c.csv", "a.parquet")
    assert names(tmp_path / "{a,b}.csv") == ["a.csv", "b.csv"]
    assert names(tmp_path / "{a,c}.{csv,parquet}") == ["a.csv", "a.parquet", "c.csv"]


def test_a_glob_of_directories_alone_is_the_files_below_them(tmp_path):
    touch(tmp_path, "dt=1/a.csv", "dt=2/deep/b.csv", "other/c.csv")
    assert names(tmp_path / "dt=*") == ["a.csv", "b.csv"]


def test_a_directory_beside_the_files_of_a_glob_is_left_out_and_said(tmp_path):
    touch(tmp_path, "a.csv", "archive/b.csv")
    found = list_files(f"{tmp_path}/*", may_be_glob=True)
    assert [file.path for file in found.files] == [f"{tmp_path}/a.csv"]
    assert found.left_out == (LeftOut("directory beside files", 1, f"{tmp_path}/archive"),)


def test_two_stars_are_any_number_of_directories(tmp_path):
    touch(tmp_path, "log/a.csv", "x/log/b.csv", "x/y/log/c.csv", "x/y/d.csv")
    assert sorted(names(tmp_path / "**/log/*.csv")) == ["a.csv", "b.csv", "c.csv"]
    assert sorted(names(tmp_path / "x/**")) == ["b.csv", "c.csv", "d.csv"]


# --- hidden names ---


def test_a_partition_may_begin_with_an_underscore(tmp_path):
    touch(tmp_path, "_dt=2024-01-01/a.csv", "_SUCCESS", ".crc", "_tmp/b.csv")
    found = list_files(str(tmp_path))
    assert [file.path for file in found.files] == [f"{tmp_path}/_dt=2024-01-01/a.csv"]
    assert found.left_out == (LeftOut("hidden", 3, f"{tmp_path}/.crc"),)


def test_a_glob_names_the_hidden_directories_that_it_might_have_read(tmp_path):
    touch(tmp_path, "a/x.csv", "_tmp/x.csv", ".git/config")
    found = list_files(f"{tmp_path}/*/*.csv", may_be_glob=True)
    assert [each.number for each in found.left_out] == [2]
    assert list_files(f"{tmp_path}/a*/*.csv", may_be_glob=True).left_out == ()


# --- links ---


def test_links_to_directories_are_followed(tmp_path):
    touch(tmp_path, "log/a.csv", "store/b.csv")
    (tmp_path / "log" / "more").symlink_to(tmp_path / "store")
    assert names(tmp_path / "log") == ["a.csv", "b.csv"]
    assert names(tmp_path / "log/*/*.csv") == ["b.csv"]


def test_a_link_to_a_directory_above_it_is_refused(tmp_path):
    touch(tmp_path, "log/a.csv")
    (tmp_path / "log" / "loop").symlink_to(tmp_path)
    with pytest.raises(InputDataError, match=r"log/loop is a link to .*, a directory above it"):
        list_files(str(tmp_path))


def test_a_link_to_nothing_is_no_file(tmp_path):
    touch(tmp_path, "a.csv")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    assert names(tmp_path) == ["a.csv"]


# --- tables ---


@pytest.mark.parametrize(
    ("mark", "path", "kind"),
    [
        ("_delta_log/0.json", "", "Delta"),
        ("_delta_log/0.json", "*.parquet", "Delta"),
        ("_delta_log/0.json", "a.parquet", "Delta"),
        (".hoodie/hoodie.properties", "", "Hudi"),
        ("metadata/v1.metadata.json", "", "Iceberg"),
        ("metadata/v1.metadata.json", "data", "Iceberg"),
    ],
)
def test_the_files_of_a_table_are_refused(tmp_path, mark, path, kind):
    touch(tmp_path, "table/" + mark, "table/a.parquet", "table/data/b.parquet")
    with pytest.raises(ConfigError, match=rf"/table is a table of {kind}: .* events\.table"):
        list_files(str(tmp_path / "table" / path), may_be_glob=True)
    with pytest.raises(ConfigError, match=kind):  # a table below the log
        list_files(str(tmp_path))


# --- partitions ---


@pytest.mark.parametrize(
    ("directory", "settings"),
    [
        ("dt={0:%Y-%m-%d}", {"partition_column": "dt"}),
        ("dt={0:%Y%m%d}", {"partition_column": "dt"}),
        ("dt={0:%Y-%m-%d}T05", {"partition_column": "dt"}),
        ("dt={0:%Y-%m-%d} 00%3A00%3A00", {"partition_column": "dt"}),
        ("date={0:%Y-%m-%d}/hour=3", {"partition_column": "date"}),
        (
            "year={0:%Y}/month={0.month}/day={0.day}",
            {"partition_format": "year=%Y/month=%m/day=%d"},
        ),
        ("{0:%Y/%m/%d}", {"partition_format": "%Y/%m/%d"}),
        ("{0:%d.%m.%Y}/part", {"partition_format": "%d.%m.%Y"}),
    ],
)
def test_a_date_may_be_written_in_many_ways(tmp_path, directory, settings):
    days = [date(2023, 12, 31), date(2024, 1, 9), RUN_DATE]
    # a directory above the log that looks like a partition says nothing
    root = tmp_path / "dt=2020-01-01"
    touch(root, *(f"{directory.format(day)}/a.csv" for day in days))
    found = list_log(config(root, **settings), run_date=RUN_DATE)
    assert len(found.files) == 2
    [left_out] = found.left_out
    assert (left_out.reason, left_out.number) == ("of partitions from 2024-01-10 on", 1)


def test_the_partition_of_rows_without_a_date_is_left_out_and_said(tmp_path):
    touch(tmp_path, "dt=2024-01-01/a.csv", "dt=__HIVE_DEFAULT_PARTITION__/a.csv")
    assert listed(tmp_path, partition_column="dt") == ["dt=2024-01-01/a.csv"]
    [left_out] = list_log(config(tmp_path, partition_column="dt"), run_date=RUN_DATE).left_out
    assert str(left_out).startswith("1 of __HIVE_DEFAULT_PARTITION__, without a date, for example ")


def test_a_path_without_the_layout_is_refused_with_an_example(tmp_path):
    touch(tmp_path, "2024-01/a.csv")
    with pytest.raises(InputDataError, match=r"events\.partition_format=%Y/%m/%d; write the layo"):
        listed(tmp_path, partition_format="%Y/%m/%d")
    with pytest.raises(ValueError, match="both name the date"):
        config(tmp_path, partition_format="%Y", partition_column="dt")
    with pytest.raises(ValueError, match="names no date"):
        config(tmp_path, partition_format="year")


def test_what_was_left_out_stands_in_the_message_where_nothing_is_left(tmp_path):
    touch(tmp_path, "_SUCCESS")
    with pytest.raises(
        InputDataError, match=r"holds no file; left out: 1 hidden, for example .*_S"
    ):
        listed(tmp_path)


# --- places ---


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("s3a://bucket/log", "write it as s3://bucket/log"),
        ("S3://bucket/log", "write it as s3://bucket/log"),
        ("hdfs://node/log", "hdfs:// is not read; copy the files"),
        ("gs://bucket/log", "gs:// is not read"),
        ("abfss://c@account.dfs.core.windows.net/log", "abfss:// is not read; copy the files"),
        ("wasb://c@account.blob.core.windows.net/log", "wasb:// is not read"),
        ("adl://account.azuredatalakestore.net/log", "adl:// is not read"),
        ("https://host/log.csv", "https:// is not read; download the files"),
    ],
)
def test_a_store_that_is_not_read_is_refused_in_words(path, says):
    with pytest.raises(ConfigError, match=f"events.path={path}: {says}"):
        listed(path)


def test_a_signature_in_a_refused_url_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        listed("https://account.blob.core.windows.net/c/log.csv?sv=2024&sig=hush%2Fhush")
    assert "log.csv?sv=2024&sig=***: https:// is not read" in str(caught.value)


def test_a_data_file_elsewhere_is_no_file_of_this_machine():
    with pytest.raises(ConfigError, match=r"^gs://bucket/data/a.parquet: gs:// is not read"):
        open_filesystem("gs://bucket/data/a.parquet")


def test_a_local_path_may_be_a_url_or_begin_with_a_tilde(tmp_path, monkeypatch):
    touch(tmp_path, "log/a.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/log") == ["a.csv"]
    for url in (f"file://{tmp_path}/log", f"file://localhost{tmp_path}/log"):
        [file] = list_log(config(url), run_date=RUN_DATE).files
        assert file.path == f"{tmp_path}/log/a.csv"


# --- compression ---


def test_the_first_bytes_and_not_the_name_say_how_a_file_is_compressed(tmp_path):
    (tmp_path / "plain.csv.gz").write_bytes(CSV)
    (tmp_path / "gzip.csv").write_bytes(gzip.compress(CSV[:30]) + gzip.compress(CSV[30:]))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("log/a.csv", CSV)
        made.writestr("__MACOSX/log/._a.csv", b"\0")
        made.writestr("log/.DS_Store", b"\0")
    (tmp_path / "mac.csv").write_bytes(archive.getvalue())
    assert len(raw_rows(tmp_path, format="csv")) == 6


def test_a_file_of_zlib_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x\x9c\x4b\x04\x00")
    with pytest.raises(InputDataError, match=r"compressed by zlib .* write it as \.gz"):
        raw_rows(tmp_path, format="csv")
