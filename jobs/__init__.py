"""The jobs of a night. The environment below is set before any of them imports Ray, which reads it
when it is imported.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: keeps the log readable
if "RAY_ADDRESS" not in os.environ:
    # a Ray of our own asks for a token, as clusters should; inside a cluster its setting holds
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # and serves this machine alone: by this switch, whatever its name says, Ray takes 127.0.0.1 for
    # the address of the node, and all its servers listen on loopback only
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
