"""The jobs of a night. The environment below is set before any of them imports Ray, which reads it
when it is imported.
"""

import os


def called(job: str) -> str:
    """The words that call a job: as a module in a checkout, by our command where it is installed.

    An installed package has the jobs as `diffsasrec.jobs`, so that none is named `jobs` there.
    """
    if __name__ == "jobs":
        return f"python -m jobs.{job}"
    return f"diffsasrec {'night' if job == 'nightly' else job}"


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
    # a worker that imports torch is worth keeping until the next stage has tasks; Ray ends it after
    # a second
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # no node can be taken away that a training would have to leave before
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a training ends sooner
