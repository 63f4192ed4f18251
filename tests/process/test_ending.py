"""The end of a process: one last line, whatever its other threads go on to say."""

import json
import subprocess
import sys

import pytest

from jobs.faults.rig.nights import ROOT

GO_ON = """
import os, signal, time
from jobs.process.ending import End, catch_signals
end = End({"stage": "publish", "status": "failed"})
ours = end.summary
end.leave = lambda code, seconds: time.sleep(0.5)
catch_signals(end)
os.kill(os.getpid(), signal.SIGTERM)
while not end.is_claimed():
    pass
ours["status"] = "done"  # what a thread does that is not stopped yet
while True:
    print("a table", flush=True)
"""


@pytest.mark.process
def test_the_last_line_of_a_signal_is_the_last_and_keeps_its_words():
    done = subprocess.run(
        [sys.executable, "-c", GO_ON], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["status"]) == (5, "failed"), done.stderr
    assert last["error"].startswith("SIGTERM came in publish; run the same command again")
