"""Values that look like secrets: refused in a configuration, removed from messages."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffsasrec.errors import ConfigError

# the name of a property that holds a secret, or a value that contains one
SECRET = re.compile(
    r"secret|passw|token|credential|connection-string|authorization|cookie"
    r"|(access|account|private|api)[-_.]?key|sas[-_.]|\b(pwd|sig|signature)=",
    re.IGNORECASE,
)
# user:password@ in front of a host or bucket; container@ is how Azure's URLs begin
_NO_CONTAINER = r"(?<!abfs:)(?<!abfss:)(?<!wasb:)(?<!wasbs:)"
CREDENTIALS = re.compile(rf"(?<=:){_NO_CONTAINER}//[^/]*@|://[^/]*:[^/]*@")
VALUES = re.compile(  # of parameters in URLs and messages
    r"(Signature|Credential|X-Amz-[A-Za-z-]+|\bsig|password|passwd|token|secret|key)=[^\s&;,'\"]+",
    re.IGNORECASE,
)


def refuse_credentials(values: Mapping[str, Any], path: str) -> None:
    """Raises ConfigError for a URL with a password in it: the manifest holds the whole config."""
    for key, value in values.items():
        if isinstance(value, dict):
            refuse_credentials(value, f"{path}{key}.")
        elif isinstance(value, str) and CREDENTIALS.search(value):
            raise ConfigError(
                f"{path}{key} has credentials in its URL; leave them out, the usual AWS variables "
                "or the instance profile bring them"
            )


def plain_properties(properties: Any, key: str) -> dict[str, str]:
    """Properties of a catalog with nested keys joined by dots, and numbers as pyiceberg has them.

    Raises:
        ValueError: one looks like a secret, or is no plain value; `key` is where they come from.
    """
    if not isinstance(properties, dict):
        raise ValueError(f"{key} is not a mapping of names to values")
    flat = dict(_flat(properties, "", key))
    for name, value in flat.items():
        # the message holds no value: a refused one may be a secret
        if SECRET.search(name) or SECRET.search(value):
            raise ValueError(
                f"{key}.{name} looks like a secret, and the manifest holds the whole config; leave "
                "it out and let pyiceberg read it from a variable "
                "(PYICEBERG_CATALOG__<CATALOG>__<KEY>) or from ~/.pyiceberg.yaml"
            )
    return flat


def _flat(values: Mapping[str, Any], path: str, key: str) -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.", key)
        elif isinstance(value, bool):
            yield f"{path}{name}", str(value).lower()
        elif isinstance(value, (str, int, float)):
            yield f"{path}{name}", str(value)
        else:
            raise ValueError(f"{key}.{path}{name} is not text, a number or a boolean")


def without_secrets(text: str) -> str:
    """The text of a message without credentials, signatures, passwords and keys."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    text = re.sub(rf"{_NO_CONTAINER}//[^/@\s]+@|//[^/@\s]*:[^/@\s]*@", "//***@", text)
    return VALUES.sub(r"\1=***", text)
