"""The manifest of a run: what it holds, written once, and read only as it was published."""

import json
from typing import Any

from diffsasrec.errors import InfrastructureError
from diffsasrec.files.storage import Storage, sha256, to_json
from diffsasrec.lake.chain import Entry
from diffsasrec.lake.run_dir import RunDir, run_path


def read_manifest(lake: Storage, entry: Entry) -> dict[str, Any]:
    """The manifest of the run that `entry` names.

    Raises:
        FileNotFoundError: the run was pruned.
        InfrastructureError: it is not the manifest that was published.
    """
    source = run_path(entry.ds, entry.run_id)
    data = lake.read_bytes(f"{source}/manifest.json")
    if sha256(data) != entry.manifest_sha256:
        raise InfrastructureError(
            f"{lake.url(source)}/manifest.json is not the one that chain entry {entry.number} "
            "names (sha256); the run directory was changed after publishing"
        )
    manifest: dict[str, Any] = json.loads(data)
    return manifest


def manifest_for(run: RunDir, content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Writes manifest.json once per run; a later attempt gets the manifest of the first.

    Returns:
        the manifest and its sha256.
    """
    run.storage.create("manifest.json", to_json(content))
    data = run.storage.read_bytes("manifest.json")
    return json.loads(data), sha256(data)
