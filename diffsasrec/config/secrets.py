"""Values that look like secrets: refused in a configuration, removed from messages."""

import os
import re
from collections.abc import Mapping
from typing import Any

from diffsasrec.errors import ConfigError

# the name of a property that holds a secret, or a value that contains one
SECRET = re.compile(
    r"secret|passw|token|credential|connection-string|authorization|cookie"
    r"|(access|account|private|api)[-_.]?key|sas[-_.]|\b(pwd|sig|signature)=",
    re.IGNORECASE,
)
CREDENTIALS = re.compile(r"://[^/]*@")  # user:password@ in front of a host or bucket
VALUES = re.compile(  # of parameters in URLs and messages
    r"(Signature|Credential|X-Amz-[A-Za-z-]+|password|passwd|token|secret|key)=[^\s&;,'\"]+",
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


def without_secrets(text: str) -> str:
    """The text of a message without credentials, signatures, passwords and keys."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    text = re.sub(r"//[^/@\s]+@", "//***@", text)
    return VALUES.sub(r"\1=***", text)
