"""Chromium without a head, driven over its own debugging protocol."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 120.0  # seconds: a busy machine starts it slowly


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """What a page did while it was looked at, and what it is like then."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    async def load(self, path: Path, *, width: int, dark: bool) -> None:
        await self.call("Page.enable")
        await self.call("Network.enable")
        await self.call("Runtime.enable")
        await self.call("Log.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=844, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=path.as_uri())
        while await self.run("document.readyState") != "complete":
            await asyncio.sleep(0.05)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode={"Tab": 9, "Enter": 13}[key], text="\r" * (key == "Enter"),
            )  # fmt: skip

    async def screenshot(self, path: Path) -> None:
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {**size, "scale": 1}
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[dict[str, Any]]:
        """What the console and the log of the browser say, refused requests included."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event["method"] in kinds]


@contextmanager
def chromium(directory: Path) -> Iterator[str]:
    """Starts one; gives the address of a page in it."""
    program = find_chromium()
    assert program is not None
    flags = ["--headless", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    flags += ["--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += ["--no-sandbox"] * (os.geteuid() == 0)  # it does not start as root with one
    log = (directory / "chromium.log").open("w")
    process = subprocess.Popen(
        [program, *flags, f"--user-data-dir={directory / 'profile'}", "about:blank"],
        stdout=log,
        stderr=log,
    )
    try:
        yield _address(directory / "profile" / "DevToolsActivePort", process)
    finally:
        process.terminate()
        process.wait()
        log.close()


def _address(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + PATIENCE
    while not port_file.exists() or len(port_file.read_text().split()) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.05)
    return f"http://127.0.0.1:{port_file.read_text().split()[0]}"


async def look(address: str, script: Any) -> Any:
    """Opens a page and hands it to `script`, an async function."""
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{address}/json/new?about:blank") as answer:
            target = json.loads(await answer.text())
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=2**28) as socket:
            return await script(Page(socket))
