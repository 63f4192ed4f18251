"""Stops or ends a process at a chosen point; every Python below a job that has this on its path.

Python runs a module of this name when it starts. What it is to do is said in DIFFSASREC_FAULTS:

    {"stop": {"verb": "write_bytes", "path": "recommendations/part-.*", "when": "before"},
     "nth": 2, "reached": "FILE"}              stops for good, once the file says where
    {"users": [7]}                             ends the process that makes lists of one of them

The product knows nothing of it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

FAULTS: dict[str, Any] = json.loads(os.environ.get("DIFFSASREC_FAULTS", "{}"))
VERBS = ("write_bytes", "create", "replace", "copy", "delete")


def stop_at(module: ModuleType) -> None:
    """Makes the verbs of Storage stop before or after they touch a path, or halfway."""
    for verb in VERBS:
        setattr(module.Storage, verb, _stopping(verb, getattr(module.Storage, verb)))
    temporary = module.local._write_temporary

    def written(path: str, data: bytes) -> str:
        name = temporary(path, data)
        reach("any", "halfway", path)
        return name

    module.local._write_temporary = written


def _stopping(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def stopping(self: Any, *arguments: Any) -> Any:
        path = arguments[-1] if verb == "copy" else arguments[0]
        path = " ".join(path) if verb == "delete" else path
        reach(verb, "before", self.url(path))
        result = method(self, *arguments)
        reach(verb, "after", self.url(path))
        return result

    return stopping


def reach(verb: str, when: str, path: str) -> None:
    """Stops here if this is the point, for whoever watches to end the job."""
    stop = FAULTS["stop"]
    if when != stop["when"] or verb not in (stop["verb"], "any"):
        return
    if not re.search(stop["path"], path):
        return
    for number in range(1, FAULTS["nth"]):  # the passes before it are counted over all processes
        with suppress(FileExistsError), open(f"{FAULTS['reached']}.{number}", "x"):
            return
    with open(FAULTS["reached"], "a") as file:
        file.write(f"{verb} {when} {path}\n")
    time.sleep(3600)


def end_at(module: ModuleType) -> None:
    """Ends the process that makes a list of one of the users."""
    lists = module.ListMaker.lists

    def deadly(self: Any, sequences: Any, *, fallback: bool = False) -> Any:
        if not fallback and {*FAULTS["users"]} & {*sequences["user_id"].to_pylist()}:
            os.kill(os.getpid(), signal.SIGKILL)
        return lists(self, sequences, fallback=fallback)

    module.ListMaker.lists = deadly


class Patching(importlib.abc.MetaPathFinder):
    """Changes our modules right after they are imported."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        execute, patch = spec.loader.exec_module, self._patches[name]

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


PATCHES = {
    "stop": ("diffsasrec.files.storage", stop_at),
    "users": ("diffsasrec.score.list_maker", end_at),
}
if wanted := [PATCHES[fault] for fault in PATCHES if fault in FAULTS]:
    sys.meta_path.insert(0, Patching(dict(wanted)))
