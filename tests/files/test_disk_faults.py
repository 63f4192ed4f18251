"""A local lake that can't be written: read-only, full, or with limits; and what is said of it."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import os, resource, sys
from diffsasrec.errors import DiffsasrecError
from diffsasrec.files.storage import Storage
{limit}
try:
    Storage.of(sys.argv[1]).check_writable()
except DiffsasrecError as error:
    print(type(error).__name__, error)
"""


def check_in_a_child(root: Path, *, limit: str = "", before: list[str] | None = None) -> str:
    command = [*(before or []), sys.executable, "-c", CHECK.format(limit=limit), str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def test_a_read_only_directory_is_refused_with_the_remedy(tmp_path: Path):
    (tmp_path / "lake").mkdir(mode=0o500)
    said = check_in_a_child(tmp_path / "lake", limit="os.getuid() == 0 and os.setuid(65534)")
    assert said.startswith(
        f"ConfigError the lake {tmp_path}/lake can't be written to: writing {tmp_path}/lake"
    )
    assert "Permission denied; let the user of this process write there" in said


def test_a_limit_on_file_sizes_is_refused_with_the_remedy(tmp_path: Path):
    said = check_in_a_child(tmp_path, limit="resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))")
    assert "File too large; the limit on the size of a file is too low: raise it" in said


def test_a_full_disk_is_refused_with_the_remedy(tmp_path: Path):
    mount = f"mount -t tmpfs -o size=4k tmpfs {tmp_path}"
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    filled = f'{mount} && head -c 4096 /dev/zero > {tmp_path}/all && exec "$@"'
    said = check_in_a_child(tmp_path, before=[*own, filled, "sh"])
    assert "No space left on device; the disk is full: free space there" in said
    assert said.startswith("InfrastructureError ")


FILL = """
import sys
from pathlib import Path
from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage
lake = Storage.of(sys.argv[1])
writes = {
    "write_bytes": lambda: lake.write_bytes("a/b", b"0" * 2**20),
    "create": lambda: lake.create("a/b", b"0" * 2**20),
    "write_file": lambda: lake.write_file("a/b", lambda path: Path(path).write_bytes(b"0" * 2**20)),
}
try:
    writes[sys.argv[2]]()
except InfrastructureError as error:
    print("full" if "No space" in str(error) else error, *Path(sys.argv[1]).glob("a/*"))
"""


@pytest.mark.parametrize("verb", ["write_bytes", "create", "write_file"])
def test_a_write_that_finds_the_disk_full_leaves_nothing_on_it(tmp_path: Path, verb: str):
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path}"
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    command = [*own, f'{mount} && exec "$@"', "sh", sys.executable, "-c", FILL, str(tmp_path), verb]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert said == "full\n"
