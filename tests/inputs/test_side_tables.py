"""Tables beside the log: every row of them is read, or they are refused by name."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.formats.chunks import CHUNK_BYTES
from diffsasrec.inputs.side_tables import read_columns, read_item_ids

KEY = "score.deny_path"


def ids_of(path: Path | str) -> list[object]:
    return read_item_ids(str(path), KEY).to_pylist()


def write_ids(path: Path, *ids: object) -> None:
    pq.write_table(pa.table({"item_id": list(ids)}), path)


def test_rows_with_newlines_in_quotes_are_all_read_whatever_the_size_of_the_file(tmp_path):
    lines = [f'{n},"Title {n}\nsecond line, {"x" * 60}"\n' for n in range(40_000)]
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(lines))
    table = read_columns(
        str(tmp_path / "items.csv"), "items.path", {"item_id": "id", "title": "text"}
    )
    assert table["item_id"].to_pylist() == [str(n) for n in range(40_000)]
    assert table["title"][39_999].as_py() == f"Title 39999\nsecond line, {'x' * 60}"


@pytest.mark.parametrize("name", ["deny.csv.gz", "DENY.CSV", "deny", "part-00000.csv.bz2"])
def test_a_csv_is_known_by_its_name_or_by_what_it_is_not(tmp_path, name):
    import bz2

    pack: Any = {"gz": gzip.compress, "bz2": bz2.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(pack(b"\xef\xbb\xbfitem_id,why\r\n007,a\r\nNA,b\r\n"))
    assert ids_of(tmp_path / name) == ["007", "NA"]


def test_a_parquet_file_is_known_by_its_name_or_by_its_first_bytes(tmp_path):
    for name in ("a.snappy.parquet", "b.PARQUET", "c"):
        write_ids(tmp_path / name, 1, None)
        assert ids_of(tmp_path / name) == [1]


def test_a_directory_as_spark_writes_it_is_one_table(tmp_path):
    path = tmp_path / "deny.parquet"
    (path / "_temporary/0").mkdir(parents=True)
    (path / "_temporary/0/part.parquet").write_bytes(b"PAR1")
    (path / "_SUCCESS").touch()
    (path / ".part-00000.crc").write_bytes(b"crc")
    write_ids(path / "part-00000.snappy.parquet", 1, 2)
    write_ids(path / "part-00001.snappy.parquet", 3)
    pq.write_table(pa.table({"item_id": pa.nulls(0)}), path / "part-00002.snappy.parquet")
    assert ids_of(path) == [1, 2, 3]


def test_a_directory_on_a_store_is_one_table_and_what_is_not_there_is_refused(s3, tmp_path):
    store = Storage.of(f"{s3}/{tmp_path.name}")
    store.write_bytes("deny/a.csv.gz", gzip.compress(b"item_id\n1\n"))
    store.write_bytes("deny/_SUCCESS", b"")
    store.write_bytes("deny/part-0", b"item_id\n2\n")
    store.write_bytes("empty/_SUCCESS", b"")
    assert ids_of(store.url("deny")) == ids_of(store.url("deny/")) == ["1", "2"]
    assert ids_of(store.url("empty")) == []
    with pytest.raises(ConfigError, match=rf"{KEY}=.*/nowhere can't be read"):
        ids_of(store.url("nowhere"))


def test_files_of_other_types_are_named(tmp_path):
    write_ids(tmp_path / "a.parquet", 1)
    write_ids(tmp_path / "b.parquet", "x")
    with pytest.raises(ConfigError, match=r"b\.parquet: its columns are item_id string.*int64"):
        ids_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("notes.txt", b"read me\n", "notes.txt has no column item_id"),
        ("caret.csv", b"item_id^why\n1^a\n", "are its fields separated by commas"),
        ("zero.csv", b"", "zero.csv is empty"),
        ("open.csv", b'item_id,why\n1,"a\n2,b\n', r"open.csv: \d lines are no rows of it, as in"),
        ("wide.csv", b"item_id,why\n1,a,b\n", "wide.csv: 1 lines are no rows of it, as in '1,a,b'"),
        ("bytes.csv", b"item_id\n\xff\n", "bytes.csv can't be read"),
        ("cut.csv.gz", gzip.compress(b"item_id\n1\n", mtime=0)[:-8], "cut.csv.gz can't be read"),
        ("float.parquet", None, "float.parquet: item_id is double"),
    ],
)
def test_what_can_not_be_read_in_full_is_refused_by_its_name(tmp_path, name, data, message):
    good = tmp_path / "table" / "a.csv"
    good.parent.mkdir()
    good.write_text("item_id\n1\n")
    if data is None:
        write_ids(good.parent / name, 1.0, None)
    else:
        (good.parent / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{KEY}=.*{message}"):
        ids_of(good.parent)


PAIR = {"user_id": "id", "item_id": "id"}


def test_pairs_come_from_files_of_any_name_and_compression_and_temporary_ones_are_left(tmp_path):
    header = b"user_id,item_id\n"
    files = {
        "a.csv": b"1,1\n",
        "b.csv.gz": b"2,2\n",
        "c.CSV": b"3,3\n",
        "part-0000": b"4,4\n",
        "_temporary/0/part.parquet": b"PAR1",
    }
    for name, rows in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = header + rows
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = read_columns(str(tmp_path), "score.exclude_path", PAIR)
    assert sorted(found["user_id"].to_pylist()) == ["1", "2", "3", "4"]


def test_an_empty_directory_has_no_pairs_and_neither_has_a_header_alone(tmp_path):
    assert read_columns(str(tmp_path), "score.exclude_path", PAIR).num_rows == 0
    (tmp_path / "a.csv").write_text("user_id,item_id\n")
    assert read_columns(str(tmp_path), "score.exclude_path", PAIR).num_rows == 0


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_ids_of_a_csv_are_as_they_are_written_whatever_separates_them(tmp_path, separator):
    spelled = ["1", "003", "4.0", "1e0"]
    lines = [separator.join(("item_id", "why")), *(f"{i}{separator}a" for i in spelled), ""]
    (tmp_path / "deny.csv").write_text("\n".join(lines))
    assert ids_of(tmp_path / "deny.csv") == spelled


def test_texts_of_many_lines_in_a_catalogue_of_several_blocks_lose_no_item(tmp_path):
    text = f"one\nand two, with a comma {'x' * 100}"
    lines = [f'{n},"Title {n}",c{n % 7},"{text}"\n' for n in range(3 * CHUNK_BYTES // 150)]
    (tmp_path / "items.csv").write_text("item_id,title,category,description\n" + "".join(lines))
    kinds = {"item_id": "id", "title": "text", "category": "text"}
    table = read_columns(str(tmp_path / "items.csv"), "items.path", kinds)
    assert table["item_id"].to_pylist() == [str(n) for n in range(len(lines))]
    assert table["category"].to_pylist() == [f"c{n % 7}" for n in range(len(lines))]
