"""The directory of one run, and which of its stages are done.

A run's identity is a digest of everything that its output depends on. A stage is done when its
marker carries that digest. A stage first removes what another identity left behind. What the same
identity left behind is the work of an earlier attempt and is used.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.lake.stages import OUTPUTS


@dataclass(frozen=True)
class Reused:
    """The weights of an earlier night that serve this one too."""

    ds: str  # date and id of the run that trained them
    run_id: str
    trained_before: int  # microseconds
    age_days: int  # at the run date, rounded up
    source: str  # directory of the published run that they are copied from, relative to the lake

    def cited(self) -> dict[str, Any]:
        """The fields that records and manifests hold."""
        return {key: value for key, value in asdict(self).items() if key != "source"}


@dataclass(frozen=True)
class RunDir:
    lake: Storage
    ds: str  # the run date, YYYY-MM-DD
    run_id: str
    identity: str  # sha256
    attempt: str  # this process: for what overlapping attempts must not share
    inputs: tuple[tuple[str, int, str], ...] = ()  # path, size and version of the input files
    left_out: tuple[tuple[str, int, str], ...] = ()  # of the log: reason, number and an example
    reused: Reused | None = None  # None: this run trains
    rested: tuple[str, ...] = ()  # directories of the runs whose lists are not shown again
    tables: dict[str, list[str]] = field(default_factory=dict)  # digests: tables beside the log

    @property
    def path(self) -> str:
        """Relative to the lake."""
        return f"runs/ds={self.ds}/{self.run_id}"

    @property
    def storage(self) -> Storage:
        return self.lake.sub(self.path)

    def record(self, stage: str) -> dict[str, Any] | None:
        """What a done stage recorded; None if it is not done under this identity."""
        marker = self._read(f"_stages/{stage}.json")
        return marker["record"] if marker and marker["identity"] == self.identity else None

    def require(self, stage: str) -> dict[str, Any]:
        """The record of a stage that must be done.

        Raises:
            ConfigError: it is not done.
        """
        record = self.record(stage)
        if record is None:
            raise ConfigError(
                f"stage {stage} of run {self.run_id} for {self.ds} is not done; run "
                f"stage {stage} with the same config, date and run id first"
            )
        return record

    def begin(self, stage: str, *, check: Callable[[], None] = lambda: None) -> None:
        """Removes what another identity left in the place of a stage, before the stage writes.

        Args:
            check: raises if nothing may be removed. It is called after the record of the stage is
                gone: a command that is about to publish the run then sees that it may not.
        """
        begun = self._read(f"_stages/{stage}.begun.json")
        if begun and begun["identity"] != self.identity:
            self.storage.delete([f"_stages/{stage}.json"])
            check()
            for output in OUTPUTS[stage]:
                self.storage.delete([info.path for info in self.storage.list(output)])
        if not begun or begun["identity"] != self.identity:
            self._write(f"_stages/{stage}.begun.json", {"identity": self.identity})

    def sweep(self) -> None:
        """Deletes the temporary files of killed attempts: a full disk must not fill further."""
        if self.lake.is_local:  # a store shows no part of a write
            for directory in (self.path, "recommendations"):
                self.lake.sweep(directory)

    def finish(self, stage: str, record: dict[str, Any]) -> None:
        self._write(f"_stages/{stage}.json", {"identity": self.identity, "record": record})

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            marker: dict[str, Any] = json.loads(self.storage.read_bytes(path))
        except FileNotFoundError:
            return None
        return marker

    def _write(self, path: str, value: dict[str, Any]) -> None:
        self.storage.write_bytes(path, to_json(value))


def run_path(ds: str, run_id: str) -> str:
    """The directory of a published run, relative to the lake."""
    return f"runs/ds={ds}/{run_id}"
