"""The job server of a cluster: calls that wait while nothing answers, and the log of a job."""

import asyncio
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from diffsasrec.errors import ConfigError, DiffsasrecError, InfrastructureError
from diffsasrec.progress import duration

from .arguments import LOCAL

log = logging.getLogger("jobs.submit")

POLL_SECONDS = 2.0  # between two tries
ANSWER_SECONDS = 60.0  # in which nothing comes from the head, after which a request has failed
SILENCE_SECONDS = 300.0  # without a line, after which the log is connected anew
Result = TypeVar("Result")


class Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
    """Ray's own client, in which a request ends when the head is silent for a minute.

    A head that hangs would be waited for without end: nothing public gives Ray's client a timeout
    (2.60). A limit around a whole call would end a long upload, too. So this overrides what is not
    public, `_do_request`: all requests go through it, and a test sees whether they still do.
    """

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=ANSWER_SECONDS, **options)


class Head:
    """The job server of a cluster; a call is repeated while nothing answers, up to `patience` s."""

    def __init__(self, address: str | None, patience: float) -> None:
        if address is not None:  # else Ray would prefer RAY_ADDRESS to it
            os.environ["RAY_API_SERVER_ADDRESS"] = address
        named = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
        self.address = named or LOCAL
        self.patience = patience
        self._client: Client | None = None
        self._has_answered = False

    def call(self, what: Callable[[Client], Result]) -> Result:
        """What `what` returns.

        Raises:
            ConfigError: the head asks for another token.
            InfrastructureError: it did not answer for too long, or refused.
        """
        started, is_first = time.monotonic(), True
        while True:
            try:
                self._client = self._client or Client(self.address)
                result = what(self._client)
                self._has_answered = True
                return result
            except AuthenticationError as error:
                raise ConfigError(
                    f"{self.address} refuses the token: {str(error).splitlines()[0]}; set "
                    "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH if it is not in ~/.ray/auth_token"
                ) from None
            except (OSError, RuntimeError) as error:
                if not is_passing(error):
                    raise InfrastructureError(
                        f"{self.address}: {in_short(error)}; run the same command again"
                    ) from None
                if (waited := time.monotonic() - started) >= self.patience:
                    remedy = "the job may still run, and the same command joins it"
                    if not self._has_answered:
                        remedy = "nothing was submitted; is it the dashboard's --address?"
                    raise InfrastructureError(
                        f"{self.address} did not answer for {duration(waited)}: "
                        f"{in_short(error)}; {remedy}"
                    ) from None
                if is_first:
                    patience = duration(self.patience)
                    log.warning("%s does not answer; waiting up to %s", self.address, patience)
                is_first = False
                time.sleep(min(POLL_SECONDS, self.patience))


class Follower(threading.Thread):
    """Shows the log of a job on stderr, each character once; every connection begins at its start.

    It is only for people to read: the stream may break or end early, so the status decides.
    """

    def __init__(self, head: Head, job: str) -> None:
        super().__init__(daemon=True)
        self.text = ""
        self._head, self._job = head, job
        self._lock, self._is_over = threading.Lock(), False

    def show(self, text: str, start: int) -> None:
        """Shows what is new in `text`, the log from its character `start` on."""
        with self._lock:
            fresh = text[len(self.text) - start :] if len(self.text) >= start else ""
            if fresh and not self._is_over:
                self.text += fresh
                sys.stderr.write(fresh)
                sys.stderr.flush()

    def end(self) -> None:
        """Shows nothing more: a thread that writes while Python ends would end it badly."""
        with self._lock:
            self._is_over = True

    def run(self) -> None:
        while True:
            try:
                asyncio.run(self._stream())
            except (OSError, RuntimeError, aiohttp.ClientError, DiffsasrecError) as error:
                log.debug("the log of %s broke off: %s", self._job, error)
            time.sleep(POLL_SECONDS)

    async def _stream(self) -> None:
        chunks = self._head.call(lambda client: client.tail_job_logs(self._job))
        position = 0
        while (text := await asyncio.wait_for(anext(chunks, None), SILENCE_SECONDS)) is not None:
            self.show(text, position)
            position += len(text)


def is_passing(error: Exception) -> bool:
    """Whether a call may go well later: no answer, or a server's own error."""
    status = re.search(r"status code (\d+)", str(error))
    return int(status[1]) >= 500 if status else isinstance(error, OSError)


def in_short(error: BaseException) -> str:
    """The first line of an error, and the last: between them a server's traceback may lie."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ... ".join(dict.fromkeys([lines[0], lines[-1]]))
