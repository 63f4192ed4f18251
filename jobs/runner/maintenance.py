"""Rollback and --keep, which act on the published runs of a lake."""

import argparse
import logging
import uuid
from typing import Any

from diffsasrec.config.config import Config
from diffsasrec.files.storage import Storage
from diffsasrec.lake.chain import append_rollback, check_create_only
from diffsasrec.lake.consumer_copy import settle
from diffsasrec.lake.iceberg_sync import check_entry, follow_chain
from diffsasrec.lake.prune import prune

from ..observe.outcome import renew_index

log = logging.getLogger("jobs")


def maintain(config: Config, arguments: argparse.Namespace, summary: dict[str, Any]) -> int:
    """Rolls back, or deletes old runs, as the command line says; the exit code."""
    lake = Storage.of(config.lake)
    lake.check_writable()
    summary["stage"] = "publish"
    if arguments.keep is not None:
        pruned = prune(lake, keep=arguments.keep, grace=config.publish.grace)
        log.info(
            "publish: deleted %d run directories%s",
            len(pruned),
            "".join(f"\n  {p}" for p in pruned),
        )
        summary["counts"] = {"pruned": len(pruned)}
        renew_index(arguments.pages, lake)
    else:
        check_create_only(lake, single_writer=config.publish.single_writer)
        if config.iceberg.table is not None:
            check_entry(lake, config.iceberg, arguments.rollback_to)
        entry = append_rollback(lake, arguments.rollback_to, attempt=uuid.uuid4().hex[:12])
        settle(lake, grace=config.publish.grace, dates=[entry.ds])
        if config.iceberg.table is not None:
            follow_chain(lake, config.iceberg, ds=entry.ds)
        log.info(
            "publish: entry %d serves again what entry %d did", entry.number, arguments.rollback_to
        )
        summary |= {"run_id": entry.run_id, "counts": {"chain_number": entry.number}}
        summary |= {"current": entry.current}
    summary["status"] = "done"
    return 0
