"""Storage does the same on a local directory and on a real S3 server: facts are tried on both."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.files.storage import Storage, sha256

TABLE = pa.table({"user_id": [1, 2, 3], "items": [["a"], [], ["b", "c"]]})


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty root of its own for every test."""
    if request.param == "local":
        return Storage.of(str(tmp_path / "lake"))
    return Storage.of(f"{request.getfixturevalue('s3')}/{tmp_path.name}")


def paths(storage: Storage, directory: str = "") -> list[str]:
    return [info.path for info in storage.list(directory)]


def test_bytes_come_back_as_they_were_written(storage: Storage):
    storage.write_bytes("a/b.json", b"\x00{}\xff")
    assert storage.read_bytes("a/b.json") == b"\x00{}\xff"


def test_what_is_filled_as_a_local_file_arrives_whole_and_alone(storage: Storage):
    def write_new(file: str) -> None:
        Path(file).write_bytes(b"new")

    storage.write_bytes("a/b", b"old")
    storage.write_file("a/b", write_new)
    assert storage.read_bytes("a/b") == b"new"
    assert paths(storage) == ["a/b"]


def test_a_file_that_is_filled_can_be_read_by_whom_others_are(tmp_path: Path):
    def fill(file: str) -> None:
        Path(file).unlink()
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))

    storage = Storage.of(str(tmp_path))
    storage.write_bytes("a", b"")
    storage.write_file("b", fill)
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "a").stat().st_mode


def test_directories_are_those_directly_below_and_no_files(storage: Storage):
    for path in ("runs/ds=2/a/x", "runs/ds=1/b/y", "runs/ds=1/c", "runs/file"):
        storage.write_bytes(path, b"1")
    assert storage.directories("runs") == ["ds=1", "ds=2"]
    assert storage.directories("runs/ds=1") == ["b"]
    assert storage.directories("nowhere") == []


def test_an_empty_file_is_a_file(storage: Storage):
    storage.write_bytes("empty", b"")
    assert storage.exists("empty")
    assert storage.read_bytes("empty") == b""
    assert [(info.path, info.size) for info in storage.list()] == [("empty", 0)]


def test_a_second_write_replaces_the_first(storage: Storage):
    storage.write_bytes("a", b"old and long")
    storage.write_bytes("a", b"new")
    assert storage.read_bytes("a") == b"new"


def test_reading_what_is_not_there_is_a_file_not_found_error(storage: Storage):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read_tables("nothing")
    assert not storage.exists("nothing")


def test_a_table_comes_back_and_its_entry_says_what_was_written(storage: Storage):
    entry = storage.write_table("t/part-00000.parquet", TABLE)
    data = storage.read_bytes("t/part-00000.parquet")
    assert entry == {"path": "t/part-00000.parquet", "rows": 3, "sha256": sha256(data)}
    assert storage.read_table("t/part-00000.parquet").equals(TABLE)
    assert storage.read_table("t/part-00000.parquet", ["user_id"]).column_names == ["user_id"]


def test_a_table_written_twice_gives_equal_bytes(storage: Storage):
    first = storage.write_table("one.parquet", TABLE)
    second = storage.write_table("two.parquet", TABLE)
    assert first["sha256"] == second["sha256"]
    assert storage.read_bytes("one.parquet") == storage.read_bytes("two.parquet")


def test_tables_of_a_directory_are_read_in_the_order_of_their_names(storage: Storage):
    for number in (2, 0, 1):
        storage.write_table(f"t/part-{number:05d}.parquet", pa.table({"n": [number]}))
    storage.write_bytes("t/_SUCCESS", b"{}")
    assert storage.read_tables("t")["n"].to_pylist() == [0, 1, 2]


def test_a_directory_named_like_a_partition_adds_no_column(storage: Storage):
    storage.write_table("ds=2024-03-01/part-00000.parquet", TABLE)
    names = storage.read_table("ds=2024-03-01/part-00000.parquet").column_names
    assert names == ["user_id", "items"]


def test_list_is_recursive_relative_and_sorted(storage: Storage):
    for path in ("b/z", "b/a/deep", "a", "c"):
        storage.write_bytes(path, b"12")
    assert paths(storage) == ["a", "b/a/deep", "b/z", "c"]
    assert paths(storage, "b") == ["b/a/deep", "b/z"]
    assert paths(storage.sub("b")) == ["a/deep", "z"]
    assert {info.size for info in storage.list()} == {2}


def test_list_of_a_file_is_that_file_and_of_nothing_is_empty(storage: Storage):
    storage.write_bytes("metrics.json", b"{}")
    assert paths(storage, "metrics.json") == ["metrics.json"]
    assert paths(storage, "nothing") == []


def test_list_does_not_take_a_prefix_of_a_name_for_a_directory(storage: Storage):
    storage.write_bytes("run/a", b"")
    storage.write_bytes("run-2/b", b"")
    assert paths(storage, "run") == ["run/a"]


def test_temporary_files_are_invisible(storage: Storage):
    storage.write_bytes("a/.tmp-123-part", b"half a file")
    storage.write_bytes("a/.tmpXyZ", b"half of another's")
    storage.write_bytes(".probe-123", b"1")
    storage.write_bytes("a/part", b"whole")
    assert paths(storage) == ["a/part"]


def test_a_write_leaves_no_temporary_file_behind(tmp_path: Path):
    storage = Storage.of(str(tmp_path))
    storage.write_bytes("a", b"1")
    assert storage.create("b", b"1")
    assert not storage.create("b", b"2")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("verb", ["write", "create"])
def test_a_write_that_fails_leaves_no_temporary_file_behind(tmp_path: Path, verb: str):
    (tmp_path / "directory").mkdir()
    storage = Storage.of(str(tmp_path))
    if verb == "write":
        with pytest.raises(InfrastructureError, match="Is a directory"):
            storage.write_bytes("directory", b"data")
    else:
        assert not storage.create("directory", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_old_temporary_files_are_swept_and_young_ones_are_not(storage: Storage):
    for name in (".tmp-1", ".tmpRust", ".probe-1", "kept"):
        storage.write_bytes(f"a/{name}", b"x")
    assert storage.sweep(older_than=3600) == 0
    assert storage.sweep(older_than=-60) == 3
    assert [info.path for info in storage.list()] == ["a/kept"]
    assert storage.sweep(older_than=-60) == 0


def test_a_tree_is_deleted_with_what_is_hidden_in_it_and_no_more(storage: Storage):
    for path in ("runs/a/x/1", "runs/a/x/.tmp-1", "runs/ab/1", "runs/a.txt"):
        storage.write_bytes(path, b"x")
    storage.delete_tree("runs/a")
    assert [info.path for info in storage.list()] == ["runs/a.txt", "runs/ab/1"]


def test_a_deleted_tree_leaves_no_empty_directory_above_it(tmp_path: Path):
    storage = Storage.of(str(tmp_path))
    storage.write_bytes("runs/a/x/1", b"x")
    storage.write_bytes("kept", b"x")
    storage.delete_tree("runs/a/x")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_directory_that_others_remove_while_it_is_empty_is_made_again(tmp_path: Path):
    place, is_over = tmp_path / "runs" / "a", threading.Event()

    def remove() -> None:
        while not is_over.is_set():
            time.sleep(0.0005)
            for directory in (place, place.parent):
                with suppress(OSError):  # it is not empty, or not there
                    directory.rmdir()

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(1000):
            Storage.of(str(tmp_path)).write_bytes("runs/a/x", b"x")
            (place / "x").unlink()
    finally:
        is_over.set()
        remover.join()


def test_a_file_is_replaced_while_it_is_what_was_seen(storage: Storage):
    assert storage.version("a") is None
    assert storage.replace("a", b"1", None)
    assert not storage.replace("a", b"2", None)
    seen = storage.version("a")
    assert storage.replace("a", b"2", seen)
    assert not storage.replace("a", b"3", seen)
    assert storage.read_bytes("a") == b"2"
    storage.delete(["a"])
    assert not storage.replace("a", b"3", storage.version("a") or seen)
    assert [info.path for info in storage.list()] == []


def test_of_16_racing_replacements_of_one_version_exactly_one_wins(storage: Storage):
    storage.write_bytes("a", b"old")
    seen = storage.version("a")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: storage.replace("a", b"%d" % n, seen), range(16)))
    assert sum(won) == 1
    assert storage.read_bytes("a") == b"%d" % won.index(True)


UNREADABLE = """
import os, sys
from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage
os.setuid(65534)
for verb in (Storage.list, Storage.exists):
    try:
        print(verb(Storage.of(sys.argv[1]), "closed/inside"))
    except InfrastructureError as error:
        print("refused" if "Permission denied" in str(error) else error)
print([info.path for info in Storage.of(sys.argv[1]).list("open")])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes somebody who may not read")
def test_a_directory_that_can_t_be_read_is_an_error_and_no_empty_one(tmp_path: Path):
    # not below the directory of the tests, which nobody else may enter
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        (Path(directory) / "closed").mkdir(mode=0o700)
        (Path(directory) / "open").mkdir()
        (Path(directory) / "open" / "file").touch()
        command = [sys.executable, "-c", UNREADABLE, directory]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert said.splitlines() == ["refused", "refused", "['open/file']"]


def test_a_reader_sees_the_old_or_the_new_file_and_nothing_else(storage: Storage):
    versions = [bytes([number]) * 300_000 for number in range(8)]
    storage.write_bytes("file", versions[0])
    done = threading.Event()

    def poll() -> set[bytes]:
        seen = set()
        while not done.is_set():
            seen.add(storage.read_bytes("file"))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(poll) for _ in range(2)]
        for version in versions:
            storage.write_bytes("file", version)
            time.sleep(0.02)
        done.set()
    seen = set.union(*(reader.result() for reader in readers))
    assert len(seen) > 1
    assert seen <= set(versions)


def test_create_refuses_what_is_there_and_changes_nothing(storage: Storage):
    assert storage.create("chain/1.json", b"first")
    assert not storage.create("chain/1.json", b"second")
    assert storage.read_bytes("chain/1.json") == b"first"


def test_of_16_racing_creators_exactly_one_wins_and_its_bytes_stay(storage: Storage):
    start = threading.Barrier(16)

    def create(number: int) -> bool:
        start.wait()
        return storage.create("chain/1.json", f"attempt {number}".encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert won.count(True) == 1
    assert storage.read_bytes("chain/1.json") == f"attempt {won.index(True)}".encode()


def test_create_is_refused_by_what_was_written_and_allowed_after_a_delete(storage: Storage):
    storage.write_bytes("a", b"1")
    assert not storage.create("a", b"2")
    storage.delete(["a"])
    assert storage.create("a", b"3")


def test_both_stores_have_create_only_and_the_probe_is_gone(storage: Storage):
    assert storage.has_create_only()
    assert paths(storage) == []


def test_deleting_what_is_not_there_is_fine(storage: Storage):
    storage.write_bytes("a", b"1")
    storage.delete(["nothing", "a", "a", "no/thing"])
    assert paths(storage) == []


def test_a_copy_is_equal_and_replaces_its_target(storage: Storage):
    storage.write_bytes("from/a", b"new")
    storage.write_bytes("to/b", b"old and longer")
    storage.copy("from/a", "to/b")
    assert storage.read_bytes("to/b") == storage.read_bytes("from/a") == b"new"


def test_the_version_of_a_file_changes_with_it_and_only_then(storage: Storage):
    storage.write_bytes("a", b"one")
    storage.write_bytes("b", b"one")
    first, again = storage.list(), storage.list()
    assert first == again
    time.sleep(0.02)  # a file system's clock ticks every few milliseconds
    storage.write_bytes("a", b"two")  # of equal length
    changed = {info.path: info.version for info in storage.list()}
    assert changed["a"] != first[0].version
    assert changed["b"] == first[1].version


def test_modified_is_the_time_of_the_write_in_seconds(storage: Storage):
    storage.write_bytes("a", b"1")
    (info,) = storage.list()
    assert abs(info.modified - time.time()) < 60


def test_a_place_that_can_be_written_to_is_checked_without_a_trace(storage: Storage):
    storage.check_writable()
    assert paths(storage) == []


def test_a_place_below_a_file_is_not_writable_and_the_message_names_it(tmp_path: Path):
    (tmp_path / "file").write_text("")
    root = str(tmp_path / "file" / "lake")
    with pytest.raises(ConfigError, match=rf"{root}.*a part of the path is a file: correct the"):
        Storage.of(root).check_writable()


def test_a_place_below_proc_is_not_writable_and_no_fault_of_the_machine():
    with pytest.raises(ConfigError, match=r"/proc/lake can't be written to: .*correct the path"):
        Storage.of("/proc/lake").check_writable()


def test_a_missing_bucket_with_wrong_credentials_is_not_writable(s3: str):
    # a process of its own: a client keeps the credentials that it was made with
    code = (
        "from diffsasrec.errors import ConfigError\n"
        "from diffsasrec.files.storage import Storage\n"
        "try:\n"
        "    Storage.of('s3://missing/lake').check_writable()\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": "wrong"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.startswith("the lake s3://missing/lake can't be written to"), run.stderr


def test_a_relative_root_is_made_absolute_and_s3_is_left_alone():
    assert Storage.of("lake").root == os.path.abspath("lake")
    assert Storage.of("s3://bucket/prefix").root == "s3://bucket/prefix"


def test_each_file_that_is_deleted_is_a_sign_of_life(tmp_path: Path, beats: list[None]):
    lake = Storage.of(str(tmp_path))
    for name in "abc":
        lake.write_bytes(f"d/{name}", b"")
    lake.delete_tree("d")
    assert len(beats) == 3
