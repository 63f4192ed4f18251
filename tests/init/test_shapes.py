"""Logs that are found, or refused in the right words, whatever shape they have."""

import gzip
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from sources import ROOT

from diffsasrec.errors import InputDataError
from jobs.init.choosing import choose
from jobs.init.files import take

START = 1704067200  # 2024-01-01


def lines(separator: str, number: int = 300) -> list[str]:
    return [separator.join((f"{n % 20}", f"{n // 3}", f"{START + n}")) for n in range(number)]


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return str(path)


def test_lines_may_end_in_a_carriage_return_alone(tmp_path: Path):
    path = written(tmp_path / "a.csv", "\r".join(["user,item,time", *lines(",")]))
    assert choose(path).log.sample.table.num_rows == 300


def test_an_item_may_be_known_by_its_title_alone_and_what_is_missing_is_the_time(tmp_path: Path):
    text = "".join(f"{n % 20},Game {n // 3},{n / 2}\n" for n in range(300))
    path = written(tmp_path / "a.csv", "user-id,game-title,value\n" + text)
    with pytest.raises(InputDataError, match=r"no column for the time \(of user-id, game-title"):
        choose(path)


def test_an_id_goes_before_a_title_which_is_not_proposed(tmp_path: Path):
    text = "".join(f"{n % 20},P{n // 3},{n // 3},{START + n}\n" for n in range(300))
    path = written(tmp_path / "a.csv", "customer,product_name,product_id,time\n" + text)
    item = choose(path).log.item
    assert (item.column.name, item.others) == ("product_id", ())


def test_the_index_of_a_table_is_no_user_and_nor_is_a_duration(tmp_path: Path):
    text = "".join(f"{n + n % 7},{START + n},Song {n // 3},{n * 7}\n" for n in range(300))
    path = written(tmp_path / "a.csv", ",ts,track_name,ms_played\n" + text)
    with pytest.raises(InputDataError, match="no column for the user "):
        choose(path)


def test_what_was_only_guessed_is_named_where_a_role_is_missing(tmp_path: Path):
    text = "".join(f"{n % 20},{START + n}\n" for n in range(300))
    path = written(tmp_path / "a.csv", "who,time\n" + text)
    with pytest.raises(InputDataError, match=r"the item \(of who, time; who may be the user\)"):
        choose(path)


def test_columns_that_are_aligned_by_blanks_are_refused_in_words(tmp_path: Path):
    text = "".join(f" {n % 20:05}  {n // 3:5}  {START + n}\n" for n in range(300))
    with pytest.raises(InputDataError, match="aligned by runs of blanks; write one separator"):
        choose(written(tmp_path / "a.txt", text))


def test_a_quote_that_never_closes_costs_its_line_alone_as_in_a_night(tmp_path: Path):
    text = ["user,item,time", *lines(","), '5,"x,9', "1,2", *lines(","), ""]
    sample = choose(written(tmp_path / "a.csv", "\n".join(text))).log.sample
    assert (sample.table.num_rows, sample.num_uneven) == (600, 2)


def test_a_time_that_can_t_be_read_is_shown(tmp_path: Path):
    text = "".join(f"{n % 20},{n // 3},2015-08-0{n % 90 + 10}\n" for n in range(300))
    path = written(tmp_path / "a.csv", "user,item,timestamp\n" + text)
    says = r"no column for the time .*timestamp is in no format of .* known, such as '2015-08-010'"
    with pytest.raises(InputDataError, match=says):
        choose(path)


def test_a_pointer_of_git_lfs_is_not_the_file(tmp_path: Path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:8df5\nsize 17\n"
    with pytest.raises(InputDataError, match="a pointer of Git LFS in place of the file"):
        choose(written(tmp_path / "a.csv", text))


def test_of_many_small_files_many_are_read_and_the_first_may_be_empty(tmp_path: Path):
    for number in range(100):
        path = tmp_path / f"2024/01/{1 + number // 24:02}/{number % 24:02}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(["user,item,time", *lines(",")[3 * number :][:3]])
        path.write_bytes(gzip.compress(rows.encode() if number else b""))
    sample = choose(str(tmp_path)).log.sample
    assert (sample.num_files, sample.rows, sample.is_whole) == (100, 297, True)


@pytest.mark.process
def test_behind_head_it_ends_without_a_traceback(tmp_path: Path):
    path = written(tmp_path / "a.csv", "\n".join(["user,item,time", *lines(",")]))
    words = ["jobs.init", path, "--output", "a.yaml", "--lake", "lake"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads what it prints
    run = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, "")


def test_files_with_a_column_more_are_a_part_of_the_log_and_named(tmp_path: Path):
    written(tmp_path / "january.csv", "\n".join(["user,item,time", *lines(",")]))
    more = [f"ios,{line}" for line in lines(",")]
    written(tmp_path / "february.csv", "\n".join(["device,user,item,time", *more]))
    chosen = choose(str(tmp_path))
    assert (chosen.log.sample.table.num_rows, chosen.path) == (600, str(tmp_path))
    assert chosen.joined == ("january.csv: user, item, time",)
    assert chosen.log.columns[0].name != "device"  # a condition on it would refuse the others


def test_a_log_in_another_form_is_left_out_and_called_one(tmp_path: Path):
    written(tmp_path / "january.csv", "\n".join(["user,item,time", *lines(",")]))
    written(tmp_path / "february.csv", "\n".join(["user;item;time", *lines(";", 400)]))
    (left_out,) = choose(str(tmp_path)).left_out
    assert left_out.startswith("january.csv: looks like a log as well, but of other form (csv with")


def test_each_file_names_its_columns_in_its_own_order(tmp_path: Path):
    written(tmp_path / "p-1.csv", "\n".join(["user,item,time", *lines(",")]))
    turned = [",".join(reversed(line.split(","))) for line in lines(",")]
    written(tmp_path / "p-2.csv", "\n".join(["time,item,user", *turned]))
    log = choose(str(tmp_path)).log
    assert (log.user.column.distinct, log.time.column.distinct) == (20, 300)


def test_a_file_without_the_header_of_the_others_is_named(tmp_path: Path):
    written(tmp_path / "p-1.csv", "\n".join(["user,item,time", *lines(",", 900)]))
    written(tmp_path / "p-2.csv", "\n".join(lines(",")))
    with pytest.raises(InputDataError, match=r"; user is not in .*/p-2\.csv"):
        choose(str(tmp_path))


def test_a_workbook_and_packed_parquet_say_what_to_do(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        for name in ("[Content_Types].xml", "xl/workbook.xml"):
            archive.writestr(name, "<x/>")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(b"PAR1 and so on"))
    (tmp_path / "c.csv").write_bytes(zlib.compress(b"user,item,time"))
    with pytest.raises(
        InputDataError, match="write the log as Parquet, CSV or JSON lines"
    ) as raised:
        choose(str(tmp_path))
    assert "is an Office document (xlsx); save its sheet as CSV" in str(raised.value)
    assert "c.csv is compressed by zlib without a header" in str(raised.value)
    assert "b.parquet.gz: Parquet that is compressed as a whole; unpack it" in str(raised.value)


def test_what_a_night_decompresses_is_looked_into(tmp_path: Path):
    text = "\n".join(["user,item,time", *lines(",")]).encode()
    packed = {"gz": gzip.compress(text), "lz4": pa.Codec("lz4").compress(text, asbytes=True)}
    for name, data in packed.items():
        (tmp_path / f"a.csv.{name}").write_bytes(data)
        assert choose(str(tmp_path / f"a.csv.{name}")).log.sample.table.num_rows == 300


def test_a_large_file_of_two_bytes_a_letter_is_read_from_its_beginning(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["user,item,time", *lines(",", 3000)]), encoding="utf-16")
    kind = choose(str(path)).log.kind
    sample = take(kind, most_bytes=10_000)
    assert (sample.num_uneven, sample.is_whole) == (0, False)
    assert sample.table["time"].to_pylist()[:2] == [f"{START}", f"{START + 1}"]
