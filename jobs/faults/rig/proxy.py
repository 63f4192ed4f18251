"""A proxy before the S3 server that breaks some of what passes, counted and repeatable."""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import aiohttp
from aiohttp import web
from yarl import URL

KINDS = {
    "slow_down": "503 SlowDown, nothing is done",
    "error": "500 InternalError, nothing is done",
    "reset": "the connection is reset before the request is read, nothing is done",
    "timeout": "no answer ever comes, nothing is done",
    "truncated": "it is done, the answer stops in its middle",
    "lost": "it is done, the connection is closed before the answer",
}
# (number of the request from 0, HTTP method, path) -> a kind, or None: passes unharmed
Plan = Callable[[int, str, str], str | None]

BETWEEN_TWO_HOPS = {"connection", "keep-alive", "transfer-encoding", "expect"}
CODES = {
    "slow_down": (503, "SlowDown"),
    "error": (500, "InternalError"),
    # only of conditional writes: a race, and a store that does not know them
    "conflict": (409, "ConditionalRequestConflict"),
    "unconditional": (501, "NotImplemented"),
}


def seeded(rate: float, kinds: Sequence[str] = tuple(KINDS), *, seed: int = 0) -> Plan:
    """Breaks `rate` of the requests; which ones, and how, depends on their number alone."""

    def plan(number: int, method: str, path: str) -> str | None:
        rng = random.Random(f"{seed} {number}")
        return rng.choice(kinds) if rng.random() < rate else None

    return plan


class Proxy:
    """Passes requests on to `target`, except those that `plan` breaks. `plan` may be replaced."""

    def __init__(self, target: str, plan: Plan) -> None:
        self.endpoint = ""
        self.plan = plan
        self.num_requests = 0
        self.injected: Counter[str] = Counter()
        self._target = target
        self._closing = asyncio.Event()

    async def serve(self, is_ready: threading.Event) -> None:
        """Serves until `close`."""
        self._client = aiohttp.ClientSession(
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        is_ready.set()
        await self._closing.wait()
        await self._client.close()
        await runner.cleanup()

    def close(self) -> None:
        self._closing.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        number, self.num_requests = self.num_requests, self.num_requests + 1
        kind = self.plan(number, request.method, request.path)
        if kind is not None:
            self.injected[kind] += 1
        if kind == "reset":
            return _reset(request)
        _ask_for_body(request)
        if kind in CODES:
            await request.content.read()
            status, code = CODES[kind]
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        if kind == "timeout":
            while request.transport is not None and not self._closing.is_set():
                await asyncio.sleep(0.05)  # until the client has enough
            return _reset(request)
        return await self._pass_on(request, kind)

    async def _pass_on(self, request: web.BaseRequest, kind: str | None) -> web.StreamResponse:
        kept = [(k, v) for k, v in request.headers.items() if k.lower() not in BETWEEN_TWO_HOPS]
        body = b"".join([part async for part in request.content.iter_any()])
        url = URL(self._target + request.raw_path, encoded=True)  # signed as it is
        async with self._client.request(
            request.method, url, headers=kept, data=body, allow_redirects=False
        ) as answer:
            data = await answer.read()
        if kind == "lost":
            return _reset(request)
        assert request.transport is not None
        if kind == "truncated" and not data:
            request.transport.write(f"HTTP/1.1 {answer.status} ".encode())
            request.transport.close()
            return web.Response()  # reaches nobody
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in BETWEEN_TWO_HOPS:
                response.headers.add(name, value)
        with suppress(ConnectionError):  # the client may be gone
            await response.prepare(request)
            if kind == "truncated":
                await response.write(data[: len(data) // 2])
                request.transport.close()
            else:
                await response.write(data)
        return response


def _ask_for_body(request: web.BaseRequest) -> None:
    # only aiohttp's applications do it by themselves; clients wait for it before they send
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    """Closes the connection as a crash does: with RST."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()  # reaches nobody


@contextmanager
def run_proxy(target: str, plan: Plan) -> Iterator[Proxy]:
    """Runs a proxy before the server `target` in a thread of its own; its endpoint is free."""
    is_ready, loop = threading.Event(), asyncio.new_event_loop()
    proxy = Proxy(target, plan)
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(is_ready),))
    thread.start()
    try:
        is_ready.wait()
        yield proxy
    finally:
        loop.call_soon_threadsafe(proxy.close)
        thread.join()
        loop.close()
