"""What Ray's own client sends to a head for jobs.submit, and when it gives a silent one up."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
import ray

from diffsasrec.errors import InfrastructureError
from jobs.submit.__main__ import take_attempt
from jobs.submit.job_server import Head


class Recording(ThreadingHTTPServer):
    """A head that takes every package and every job."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.packages: list[bytes] = []
        self.jobs: list[dict[str, str]] = []


class Answers(BaseHTTPRequestHandler):
    server: Recording

    def answer(self, body: object, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def sent(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_GET(self) -> None:
        if self.path.startswith("/api/packages/"):
            self.answer(None, 404)
        else:
            self.answer([] if self.path == "/api/jobs/" else {"ray_version": ray.__version__})

    def do_PUT(self) -> None:
        self.server.packages.append(self.sent())
        self.answer(None)

    def do_POST(self) -> None:
        job = json.loads(self.sent())
        self.server.jobs.append(job)
        self.answer({"job_id": job["submission_id"], "submission_id": job["submission_id"]})

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def recording(monkeypatch) -> Iterator[Recording]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # is set, and so put back
    with Recording() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_neither_a_token_nor_a_log_travels_to_the_cluster(recording: Recording, tmp_path: Path):
    for name in ("auth_token", "nightly.log", "deep/auth_token", "main.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    head = Head(f"http://127.0.0.1:{recording.server_port}", 0)
    assert take_attempt(head, "main", ["python", "main.py"], tmp_path, False) == "main-1"
    (package,) = recording.packages
    names = ZipFile(BytesIO(package)).namelist()
    assert [name for name in names if not name.endswith("/")] == ["main.py"]
    assert [job["entrypoint"] for job in recording.jobs] == ["python main.py"]


def test_a_head_that_takes_a_request_and_is_silent_is_given_up(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr("jobs.submit.job_server.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hang_up = threading.Timer(60, silent.close)  # or a client without a limit would wait
        hang_up.start()
        head = Head(f"http://127.0.0.1:{silent.getsockname()[1]}", 0)
        with pytest.raises(InfrastructureError, match=r"did not answer .* Read timed out"):
            head.call(lambda client: client.list_jobs())
        hang_up.cancel()
