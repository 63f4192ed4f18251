"""How a job ends, whoever ends it: one exit code, one last line, and no process left behind.

Python acts on a signal between two of its own instructions. The main thread may be minutes away
from the next one, in a call of Ray, and Ray puts handlers of its own in place of ours. So a signal
is only noted where it arrives, by a byte in a pipe, and a thread that waits there ends the process.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

log = logging.getLogger("jobs")

CODES = {signal.SIGTERM: 5, signal.SIGINT: 130}
# A second signal within this time of the first is taken for the same one: some senders signal a
# process and then its group, and Ctrl-C reaches all processes of a terminal.
SAME_SIGNAL_SECONDS = 1.0
PATIENCE = 10.0  # seconds for what is left to do when a signal has come
WATCHED = 0.005  # seconds in which a handler that Ray replaces is put back


class End:
    """The end of this process. Whoever claims it first decides how it ends."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary = summary
        self.leave: Callable[[int, float], None] = lambda code, seconds: None
        self._code: int | None = None
        self._lock, self._has_printed = threading.Lock(), False

    def is_claimed(self) -> bool:
        return self._code is not None

    def claim(self, code: int) -> bool:
        """Whether the process ends as the caller says; else somebody else has decided."""
        with self._lock:
            if self._code is not None:
                return False
            self._code = code
            # a thread that is not stopped yet goes on with the old one
            self.summary = dict(self.summary)
            return True

    def settle(self, code: int) -> int:
        """Claims the end for the calling thread, which stops here if another one has it."""
        if not self.claim(code):
            park()
        return code

    def yield_to_signal(self, seconds: float) -> None:
        """Stops the calling thread if a signal ends the process, now or in so many seconds."""
        until = time.monotonic() + seconds
        while not self.is_claimed() and time.monotonic() < until:
            time.sleep(0.01)
        if self.is_claimed():
            park()

    def print(self) -> None:
        """The last line of stdout, once; what other threads print later is lost."""
        with self._lock:
            if not self._has_printed:
                self._has_printed = True
                sys.stderr.flush()
                sys.stdout.flush()
                stdout = os.dup(1)
                # first: other threads print in pieces, and a piece must not follow the last line
                _silence(1)
                # nor stand before it: a signal may have come amid a line
                start = "\n" if self._code in CODES.values() else ""
                _write(stdout, f"{start}{json.dumps(self.summary, sort_keys=True)}\n".encode())

    def now(self) -> NoReturn:
        """Ends the process and all below it at once; they say nothing more."""
        with suppress(Exception):
            self.print()
        _silence(1)
        _silence(2)
        kill_family()
        os._exit(5 if self._code is None else self._code)

    def by_signal(self, number: int) -> NoReturn:
        name, code = signal.Signals(number).name, CODES[signal.Signals(number)]
        if self.claim(code):
            error = (
                f"{name} came in {self.summary['stage'] or 'the start'}; run the same command "
                "again: it goes on from what is done"
            )
            self.summary |= {"status": "failed", "error": error}
            log.error("%s", error)
            with suppress(Exception):  # stdout may be closed
                self.print()  # at once: whoever sent the signal may not wait for long
            with suppress(Exception):
                self.leave(code, PATIENCE)
        else:  # it ends already, perhaps with a store that does not answer
            time.sleep(PATIENCE)
        self.now()


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _silence(descriptor: int) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, descriptor)
    os.close(silent)


_handler: int | None = None  # Python's own, which notes a signal in the pipe


def catch_signals(end: End) -> None:
    """From now on SIGTERM and SIGINT end this process as `end` says; a second one at once."""
    global _handler
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _set_handlers()
    _handler = _getsig(signal.SIGTERM)
    threading.Thread(target=_wait_for_signals, args=(reading, end), daemon=True).start()


def put_back_handlers() -> None:
    """Those of this file, if signals are caught in this process; from the main thread."""
    if _handler is not None:
        _set_handlers()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Around a call in which Ray replaces handlers, by some that print a stack of C++."""
    if _handler is None:  # nothing is caught in this process
        yield
        return
    is_over = threading.Event()
    keeper = threading.Thread(target=_keep_handlers, args=(is_over,), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        put_back_handlers()
        is_over.set()
        keeper.join()


def park() -> NoReturn:
    """Keeps the calling thread from doing anything more: another one ends the process."""
    while True:
        time.sleep(3600)


def kill_family() -> None:
    """Kills every process below this one, the youngest first: a Ray of its own, with its workers.

    (Where there is no /proc, the end of this process is what ends them.)
    """
    # stopped first: a child that a dying parent has just started would not be found any more
    stopped: list[int] = []
    while found := [pid for pid in descendants(os.getpid()) if pid not in stopped]:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
        stopped += found
    for pid in reversed(stopped):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes below one, parents before children, without those that have ended."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(path.parent.name))
    found = [pid]
    for parent_pid in found:  # which grows
        found += children.get(parent_pid, [])
    return found[1:]


def _set_handlers() -> None:
    for number in CODES:
        signal.signal(number, _note)


def _note(number: int, frame: FrameType | None) -> None:
    """Nothing: the pipe has it already."""


def _wait_for_signals(reading: int, end: End) -> None:
    first: float | None = None
    while True:
        for number in os.read(reading, 64):
            if number not in CODES:
                continue
            if first is None:
                first = time.monotonic()
                threading.Thread(target=end.by_signal, args=(number,), daemon=True).start()
            elif time.monotonic() - first > SAME_SIGNAL_SECONDS:
                end.now()


def _keep_handlers(is_over: threading.Event) -> None:
    while not is_over.wait(WATCHED):
        for number in CODES:
            if _getsig(number) != _handler:
                _setsig(number, _handler)


def _getsig(number: int) -> int:
    """The address of what the system calls for a signal."""
    return int(_PYTHON.PyOS_getsig(number) or 0)


def _setsig(number: int, handler: int | None) -> None:
    # unlike signal.signal from any thread: the main one is in the call that replaces handlers
    _PYTHON.PyOS_setsig(number, handler)


_PYTHON = ctypes.pythonapi
_PYTHON.PyOS_getsig.argtypes, _PYTHON.PyOS_getsig.restype = [ctypes.c_int], ctypes.c_void_p
_PYTHON.PyOS_setsig.argtypes = [ctypes.c_int, ctypes.c_void_p]
_PYTHON.PyOS_setsig.restype = ctypes.c_void_p
