"""A store that fails, through a proxy before the real S3 server; disks that can't be written."""

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest
from published import Published

from diffsasrec.config.data import EventsConfig
from diffsasrec.config.secrets import without_secrets
from diffsasrec.errors import ConfigError, InfrastructureError, find_ours
from diffsasrec.files.patience import Patience
from diffsasrec.files.storage import Storage, sha256
from diffsasrec.inputs.log_files import inspect_inputs, list_inputs
from diffsasrec.inputs.log_rows import read_fragment
from diffsasrec.lake.chain import append_entry, read_chain
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import OUTPUTS
from jobs.faults.rig.nights import DATE, Nights, digests, run_dir, tiny_config
from jobs.faults.rig.proxy import KINDS, Plan, Proxy, run_proxy, seeded
from jobs.faults.rig.s3_server import aws_variables

TABLE = pa.table({"user_id": [1, 2, 3], "items": [["a"], [], ["b", "c"]]})
LOG = pa.table({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"], "timestamp": [3, 4, 5]})
QUICK = Patience(attempts=12, pause=0.01, connect=0.5, silence=0.3, seconds=1.0)
VERBS = {
    "reading": lambda storage: storage.read_bytes("there"),
    "writing": lambda storage: storage.write_bytes("new", b"data"),
    "copying to": lambda storage: storage.copy("there", "copy"),
    "listing": lambda storage: storage.list(),
    "deleting": lambda storage: storage.delete(["there"]),
}


@pytest.fixture(scope="module")
def one_proxy(s3: str) -> Iterator[Proxy]:
    """Stands between this process and the S3 server."""
    with (
        run_proxy(os.environ["AWS_ENDPOINT_URL"], seeded(0)) as proxy,
        aws_variables(proxy.endpoint),
    ):
        yield proxy


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    """Harmless until its plan is replaced."""
    one_proxy.plan = seeded(0)
    one_proxy.injected.clear()
    one_proxy.num_requests = 0  # the same requests fail whatever ran before
    return one_proxy


@pytest.fixture
def storage(proxy: Proxy, s3: str, tmp_path: Path) -> Storage:
    storage = Storage(f"{s3}/{tmp_path.name}", QUICK)
    storage.write_bytes("there", b"data")
    return storage


def use_every_verb(storage: Storage) -> None:
    storage.write_bytes("a", b"data")
    assert storage.read_bytes("a") == b"data"
    storage.write_table("t/part.parquet", TABLE)
    assert storage.read_table("t/part.parquet").equals(TABLE)
    storage.copy("a", "b")
    assert storage.read_bytes("b") == b"data"
    assert storage.create("c", b"first")
    assert not storage.create("c", b"second")
    assert storage.read_bytes("c") == b"first"
    version = storage.version("c")
    assert storage.replace("c", b"third", version)
    assert not storage.replace("c", b"fourth", version)
    assert storage.read_bytes("c") == b"third"
    assert [info.path for info in storage.list()] == ["a", "b", "c", "t/part.parquet", "there"]
    storage.delete(["a", "b", "c"])
    assert not storage.exists("c")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("c")
    assert storage.has_create_only()


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_ends_right_when_a_third_of_the_requests_fail(storage, proxy, kind: str):
    proxy.plan = seeded(0.3, [kind])
    use_every_verb(storage)
    assert proxy.injected[kind] >= 5


@pytest.mark.parametrize("operation", VERBS)
def test_a_store_that_always_fails_is_named_with_the_operation_and_the_url(
    storage, proxy, operation: str
):
    storage = replace(storage, patience=replace(QUICK, attempts=3))
    proxy.plan = lambda number, method, path: "error" if method != "HEAD" else None
    with pytest.raises(
        InfrastructureError, match=rf"{operation} {storage.root}/\S* failed after 3 attempts: "
    ):
        VERBS[operation](storage)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_tried_as_often_as_allowed_and_then_no_more(storage, proxy, kind: str):
    storage = replace(storage, patience=replace(QUICK, attempts=3, seconds=30))
    proxy.plan, before, started = seeded(1.0, [kind]), proxy.num_requests, time.monotonic()
    with pytest.raises(InfrastructureError):
        storage.write_bytes("new", b"data")
    # aiohttp sends what met a closed connection once more
    assert 3 <= proxy.num_requests - before <= 6
    assert time.monotonic() - started < 10


def test_an_attempt_ends_whatever_the_connection_does(storage, proxy):
    storage = replace(storage, patience=Patience(2, 0.01, connect=1, silence=60, seconds=0.5))
    proxy.plan, started = seeded(1.0, ["timeout"]), time.monotonic()
    with pytest.raises(InfrastructureError, match="after 2 attempts: TimeoutError"):
        storage.read_bytes("there")
    assert time.monotonic() - started < 30  # the silence would last for 60


@pytest.mark.parametrize("kind", ["lost", "truncated"])
def test_the_attempt_whose_chain_entry_got_no_answer_knows_that_it_won(storage, proxy, kind: str):
    lost: list[str] = []

    def lose_the_first(number: int, method: str, path: str) -> str | None:
        if method == "PUT" and "_published" in path and not lost:
            lost.append(path)
            return kind
        return None

    run = RunDir(lake=storage, ds=DATE, run_id="x", identity="i", attempt="mine")
    proxy.plan = lose_the_first
    entry, is_ours = append_entry(storage, run, "0" * 64)
    assert lost
    assert (entry.number, is_ours) == (1, True)
    assert [e.attempt for e in read_chain(storage)] == ["mine"]


def test_a_create_whose_answer_was_lost_has_won_and_the_next_one_has_not(storage, proxy):
    first = proxy.num_requests
    proxy.plan = lambda number, method, path: "lost" if number == first else None
    assert storage.create("one", b"mine")
    assert not storage.create("one", b"theirs")
    assert storage.read_bytes("one") == b"mine"


def first_put(kind: str) -> Plan:
    """Breaks the first PUT alone."""
    pending = [kind]
    return lambda number, method, path: pending.pop() if method == "PUT" and pending else None


def test_a_create_that_races_with_a_delete_is_tried_again(storage, proxy):
    proxy.plan = first_put("conflict")
    assert storage.create("one", b"mine")
    proxy.plan = first_put("conflict")
    assert not storage.create("one", b"theirs")
    assert proxy.injected["conflict"] == 2
    assert storage.read_bytes("one") == b"mine"


def test_a_store_that_knows_no_conditions_is_written_to_and_found_out(storage, proxy):
    puts = itertools.count()
    # each write is tried once more, without its condition
    proxy.plan = lambda number, method, path: (
        "unconditional" if method == "PUT" and next(puts) % 2 == 0 else None
    )
    assert storage.create("new", b"data")
    assert storage.read_bytes("new") == b"data"
    assert proxy.injected["unconditional"] == 1
    assert not storage.has_create_only()


@pytest.mark.parametrize("kind", ["conflict", "lost", "truncated", "unconditional"])
def test_a_replacement_that_the_store_answers_so_is_made_once(storage, proxy, kind: str):
    version = storage.version("there")
    proxy.plan = first_put(kind)
    assert storage.replace("there", b"new", version)
    assert proxy.injected[kind] == 1
    assert storage.read_bytes("there") == b"new"


def test_a_log_on_a_failing_store_is_read_right(storage, proxy):
    storage.write_table("raw/events.parquet", LOG)
    events = EventsConfig(path=f"{storage.root}/raw/", time_unit="s")
    proxy.plan = seeded(0.3, ["slow_down", "reset", "truncated", "lost"])
    files = list_inputs(events, run_date=date(2024, 3, 1))
    log = inspect_inputs(files, events)
    rows = [chunk.rows for fragment in log.fragments for chunk in read_fragment(fragment, events)]
    assert pa.concat_tables(rows).equals(LOG)
    assert proxy.injected.total() >= 1


def test_a_log_in_a_missing_bucket_is_a_fault_of_the_store_and_not_of_the_log(proxy):
    events = EventsConfig(path="s3://missing/raw/", time_unit="s")
    with pytest.raises(InfrastructureError, match="listing s3://missing/raw/ failed: 404 NoSuchBu"):
        list_inputs(events, run_date=date(2024, 3, 1))


@pytest.mark.parametrize(
    ("variables", "bucket", "kind", "words"),
    [
        ({}, "missing", ConfigError, "404 NoSuchBucket.* create the bucket"),
        ({"AWS_ACCESS_KEY_ID": "strange-key"}, "lake", ConfigError, "403 Inv.* check AWS_ACCESS"),
        ({"AWS_SECRET_ACCESS_KEY": "strange-secret"}, "lake", ConfigError, "403 Sig.* check AWS_A"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "lake",
            InfrastructureError,
            "after 2 .* check AWS_ENDPOINT_URL",
        ),
        ({"AWS_ENDPOINT_URL": "127.0.0.1"}, "lake", ConfigError, "Invalid endpoint"),
        ({"AWS_PROFILE": "nobody"}, "lake", ConfigError, "nobody.* could not be found"),
        ({}, "no_bucket!", ConfigError, "Parameter validation failed"),
    ],
)
def test_a_lake_that_can_t_be_used_is_refused_with_the_remedy_and_without_secrets(
    proxy, variables, bucket: str, kind: type[Exception], words: str
):
    root = f"s3://{bucket}/lake"
    with (
        aws_variables(proxy.endpoint, **variables),
        pytest.raises(
            kind,
            match=f"the lake {root} can't be written to: listing {root}/.*{words}",
        ) as caught,
    ):
        Storage(root, replace(QUICK, attempts=2)).check_writable()
    for secret in ("strange-key", "strange-secret", "testkey", "testsecret", "AWS4-HMAC"):
        assert secret not in str(caught.value)


class Refusing(BaseHTTPRequestHandler):
    """A store that answers everything with one error."""

    protocol_version = "HTTP/1.1"
    status, code = 403, "AccessDenied"

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_DELETE = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", ConfigError),
        (400, "ExpiredToken", ConfigError),
        (503, "SlowDown", InfrastructureError),
        (500, "InternalError", InfrastructureError),
        (507, "InsufficientStorage", InfrastructureError),
    ],
)
def test_what_a_store_refuses_for_good_is_a_fault_of_the_config_at_the_start_alone(
    s3, status: int, code: str, kind: type[Exception]
):
    handler = type("Handler", (Refusing,), {"status": status, "code": code})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    storage = Storage("s3://lake/there", replace(QUICK, attempts=2))
    try:
        with aws_variables(f"http://127.0.0.1:{server.server_port}"):
            with pytest.raises(kind, match=rf"can't be written to: .* {status} {code}"):
                storage.check_writable()
            with pytest.raises(InfrastructureError, match=code):  # in the midst of a night
                storage.list("a")
    finally:
        server.shutdown()
        server.server_close()


def test_credentials_and_signatures_are_taken_out_of_a_message(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    text = (
        "no http://me:word@host/lake?X-Amz-Signature=abc&X-Amz-Credential=AK/1 Signature=de hidden"
    )
    assert without_secrets(text) == (
        "no http://***@host/lake?X-Amz-Signature=***&X-Amz-Credential=*** Signature=*** ***"
    )


def test_what_a_worker_s_store_failed_with_is_told_without_the_traceback(cluster):
    import ray

    @ray.remote
    def read() -> None:
        raise InfrastructureError("reading s3://lake/a failed")

    with pytest.raises(InfrastructureError) as caught:
        ray.get(read.remote())
    assert str(find_ours(caught.value)) == "reading s3://lake/a failed"


@pytest.mark.night
def test_a_night_on_a_failing_store_prepares_what_an_undisturbed_one_does(
    published: Published, s3, toy, tmp_path: Path, proxy
):
    lake = Storage.of(f"{s3}/{tmp_path.name}")
    lake.write_bytes("raw/events.parquet", toy.read_bytes())
    config = tiny_config(f"{lake.root}/raw/", lake.root)
    # a Ray of its own: its workers talk to the proxy too
    own = Nights(tmp_path, {"AWS_ENDPOINT_URL": proxy.endpoint})
    proxy.plan = seeded(0.05, ["slow_down", "error", "reset", "truncated", "lost"], seed=3)
    code, _, log = own.run(config, "--stages", "prepare", "--run-id", "rough")
    assert code == 0, log
    run, calm = lake.sub(f"runs/ds={DATE}/rough"), run_dir(published.lake, "calm")
    made = {
        f.path: sha256(run.read_bytes(f.path)) for f in run.list() if f.path.endswith(".parquet")
    }
    expected = {k: v for name in OUTPUTS["prepare"] for k, v in digests(calm, f"{name}/*").items()}
    assert made == expected != {}
    assert proxy.injected.total() >= 3
