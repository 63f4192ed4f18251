"""S3 through s3fs, with one layer of retries: a request is tried a few times in bounded time.

By default, three layers retry: botocore each request, s3fs each call, and s3fs again each read of a
body. Their retries multiply, and each layer knows other errors. Here both are off, and every
request is retried in one place, together with its body. (Only aiohttp still repeats an idempotent
request when a connection that it had kept open turns out to be closed. No attempt counts that
repeat, and a create may be refused because its own first sending succeeded.)
"""

import asyncio
from itertools import count
from typing import Any

import aiohttp
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ResponseStreamingError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from s3fs import S3FileSystem

from diffsasrec.config.secrets import without_secrets
from diffsasrec.errors import InfrastructureError
from diffsasrec.files.patience import PATIENCE, Patience

OPERATIONS = {
    "put_object": "writing",
    "create_multipart_upload": "writing",
    "upload_part": "writing",
    "complete_multipart_upload": "writing",
    "abort_multipart_upload": "writing",
    "copy_object": "copying to",
    "upload_part_copy": "copying to",
    "delete_object": "deleting",
    "list_objects_v2": "listing",
}
MISSING = {"404", "NoSuchKey", "NoSuchVersion"}
TAKEN = {"412", "PreconditionFailed"}
# answers below 500 that another attempt may change
TRANSIENT_CODES = {
    "429",
    "BadDigest",
    "ConditionalRequestConflict",  # a race, perhaps with a delete: it does not say what is there
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
TRANSIENT = (
    aiohttp.ClientError,
    BotoConnectionError,
    ConnectionError,
    HTTPClientError,
    ResponseParserError,
    ResponseStreamingError,
    TimeoutError,
)
UNREACHABLE = (
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)
# raised before a request is sent; ValueError: AWS_ENDPOINT_URL is not a URL
UNUSABLE = (
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ValueError,
)
CREDENTIALS = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role of this "
    "machine"
)
SPACE = "the store is full: free space there"
REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct the path",
    "InvalidBucketName": "correct the path",
    "AccessDenied": "allow these credentials to read, write, list and delete there",
    "403": f"{CREDENTIALS}, and what they are allowed to do there",
    "InvalidAccessKeyId": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "InvalidToken": CREDENTIALS,
    "ExpiredToken": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": "set AWS_DEFAULT_REGION to the region of the bucket",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the region of the bucket",
    "XMinioStorageFull": SPACE,
    "InsufficientStorage": SPACE,
    "507": SPACE,
}
# answers that no retry changes: a person has to act
LASTING = {
    "401",
    "403",
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidToken",
    "NoSuchBucket",
    "PermanentRedirect",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
WAIT = "the store does not answer or is overloaded: run the same command again once it is well"


class ObjectStore(S3FileSystem):  # type: ignore[misc]
    """The filesystem of all S3 URLs.

    A failed request raises FileNotFoundError, FileExistsError (a create) or InfrastructureError,
    which names the operation, the URL, the cause and the remedy.
    """

    retries = 1  # of s3fs

    def __init__(self, *, patience: Patience = PATIENCE) -> None:
        self.patience = patience
        super().__init__(
            use_listings_cache=False,  # other runs write to the same lake
            config_kwargs={
                "connect_timeout": patience.connect,
                "read_timeout": patience.silence,
                "retries": {"total_max_attempts": 1, "mode": "standard"},  # of botocore
            },
        )

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        for attempt in count(1):
            try:
                async with asyncio.timeout(self.patience.seconds):
                    answer = await super()._call_s3(method, *args, **kwargs)
                    return await _with_body(answer)
            except Exception as error:
                if _code(error)[0] == 501 and _drop_condition(kwargs):
                    continue
                if not _is_transient(error) or attempt == self.patience.attempts:
                    raise _explained(error, method, kwargs, attempt) from error
            await asyncio.sleep(self.patience.pause_after(attempt))


def _drop_condition(request: dict[str, Any]) -> bool:
    """Removes the condition of a write, for a store without conditions; whether it had one."""
    conditions = [request.pop(name, None) for name in ("IfMatch", "IfNoneMatch")]
    return any(conditions)


class _Body:
    """A body that was read completely, with the methods that s3fs calls."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        return self._data

    def close(self) -> None:
        pass


async def _with_body(answer: Any) -> Any:
    if not isinstance(answer, dict) or "Body" not in answer:
        return answer
    try:
        return {**answer, "Body": _Body(await answer["Body"].read())}
    finally:
        answer["Body"].close()


def _code(error: BaseException) -> tuple[int, str]:
    """The HTTP status and the S3 error code; 0 and "" when the store did not answer."""
    # s3fs turns errors of botocore into an OSError of its own
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))


def _is_transient(error: Exception) -> bool:
    status, code = _code(error)
    if status:
        return (status >= 500 and status not in (501, 507)) or code in TRANSIENT_CODES
    return isinstance(error, TRANSIENT) and not isinstance(error, (SSLError, ProxyConnectionError))


def _explained(error: Exception, method: str, request: dict[str, Any], attempt: int) -> Exception:
    """The error that the failed request raises."""
    _, code = _code(error)
    url = f"s3://{request.get('Bucket')}/{request.get('Key') or request.get('Prefix', '')}"
    if code in MISSING:
        return FileNotFoundError(url)
    if code in TAKEN:
        return FileExistsError(url)
    operation = OPERATIONS.get(method, "reading")
    attempts = f" after {attempt} attempts" if attempt > 1 else ""
    return InfrastructureError(
        f"{operation} {url} failed{attempts}: {_cause(error)}; {_remedy(error, code)}",
        is_lasting=code in LASTING or isinstance(error, UNUSABLE),
    )


def _cause(error: Exception) -> str:
    status, code = _code(error)
    kind = " ".join(dict.fromkeys((str(status), code))) if status else type(error).__name__
    text = getattr(error, "strerror", None) or str(error)
    lines = text.strip().splitlines()
    return without_secrets(f"{kind}: {lines[0]}" if lines else kind)


def _remedy(error: Exception, code: str) -> str:
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return CREDENTIALS
    if isinstance(error, UNREACHABLE):
        return "check AWS_ENDPOINT_URL and the network"
    return REMEDIES.get(code, WAIT if _is_transient(error) else "correct the request or the store")
