"""The Ray of a job: joined or started here, and set up."""

import logging
import os
import time
from contextlib import suppress

import ray
import ray.data
from ray.exceptions import AuthenticationError

from diffsasrec.errors import ConfigError, InfrastructureError
from diffsasrec.progress import duration
from diffsasrec.ray_cluster import set_up_data

from .ending import handlers_kept, kill_family

log = logging.getLogger("jobs")

WAITS = (5.0, 30.0)  # seconds before each further attempt to start a Ray


def start_ray(waits: tuple[float, ...] = WAITS) -> None:
    """Joins the cluster that RAY_ADDRESS names, else starts a Ray on this machine.

    Args:
        waits: seconds before each further attempt to start a Ray here.

    Raises:
        ConfigError: RAY_ADDRESS is no address, or its cluster asks for another token.
        InfrastructureError: no attempt went well.
    """
    logging.getLogger("ray").setLevel(logging.WARNING)
    if "RAY_ADDRESS" in os.environ:
        waits = ()  # Ray itself tries for minutes to join a cluster
    for wait in (*waits, None):
        try:
            with handlers_kept():
                _init_ray()
            break
        except (ValueError, AuthenticationError) as error:
            where = os.environ.get("RAY_ADDRESS", "not set")
            raise ConfigError(
                f"Ray can't be started with RAY_ADDRESS={where}: {_first_line(error)}; correct "
                "RAY_ADDRESS, RAY_AUTH_MODE or RAY_AUTH_TOKEN_PATH"
            ) from None
        except Exception as error:  # Ray has no type for it
            _clear_away()
            what = f"{_whose_ray()}: {type(error).__name__}: {_first_line(error)}"
            if wait is None:
                raise InfrastructureError(
                    f"{what}; attempts: {len(waits) + 1}. Is this machine short of memory, of "
                    "space in /tmp or of processes, or the cluster not up? Run the same command "
                    "again"
                ) from None
        log.warning("%s; trying again in %s", what, duration(wait))
        time.sleep(wait)
    set_up_data()


def _init_ray() -> None:
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )


def _clear_away() -> None:
    """Ends what an attempt has left."""
    with suppress(Exception), handlers_kept():
        ray.shutdown()
    if "RAY_ADDRESS" not in os.environ:
        kill_family()


def _whose_ray() -> str:
    address = os.environ.get("RAY_ADDRESS")
    return "no Ray starts on this machine" if address is None else f"no Ray answers at {address}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
