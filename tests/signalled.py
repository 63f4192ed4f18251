"""What a night says that a signal ends."""

import signal
from typing import Any

from jobs.faults.rig.nights import NightProcess

CODES = {signal.SIGTERM: 5, signal.SIGINT: 130}
SECONDS = 15.0  # in which a night has ended; this machine does much else


def ended(night: NightProcess, number: signal.Signals) -> tuple[dict[str, Any], str]:
    """Sends a signal to a night: its last line, and its log."""
    night.process.send_signal(number)
    try:
        code, last, log = night.finish(timeout=SECONDS)
    finally:
        night.kill_all()
    assert code == CODES[number], log
    assert f"{number.name} came in" in last["error"] and "run the same command again" in log
    assert (last["status"], "Traceback" in log, "*** " in log) == ("failed", False, False), log
    return last, log
