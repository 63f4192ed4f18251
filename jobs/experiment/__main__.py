"""Variants of the recipe, measured on the same split: which ingredient earns its place?

    python -m jobs.experiment --config jobs/experiment.yaml --grid jobs/grid.yaml

The grid names logs, variants and seeds:

    data:
      shop: {date: 2011-12-31, set: {events.path: shop.parquet, score.filter_seen: false}}
    seeds: [0]
    variants:
      default: {}
      no trends: {model.trends: false}
      month-old weights: {checkpoint_age: 30}

A variant is a set of config keys. `checkpoint_age` is no config key: weights trained only up to so
many days before the split, or to the `second_cut`. The counters are in every table, and a causal
SASRec of the same backbone, which is pretrained for as many epochs as the recipe has in all, with
the first seed. What is finished is not done again.
"""

if __name__ == "__main__":  # before what follows, which takes seconds to import
    from ..runner.command import run_command
    from .arguments import parse_experiment

    run_command(__spec__, parse_experiment)

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from diffsasrec.errors import DiffsasrecError
from diffsasrec.files.storage import Storage
from diffsasrec.ray_cluster import cluster_resources

from ..planning.resources import check_resources
from ..process.ray_session import start_ray
from ..runner.command import set_up_log
from ..runner.lake_mark import refuse_passing_lake, require_mark
from .cells import run_cell
from .grid import read_cells
from .table import table

log = logging.getLogger("jobs")


def main(arguments: argparse.Namespace) -> None:
    set_up_log()
    try:
        cells = read_cells(arguments.config, arguments.grid)
        for lake in sorted({cell.config.lake for cell in cells}):
            refuse_passing_lake(lake)
            require_mark(Storage.of(lake), is_new=arguments.new_lake)
        start_ray()
        for cell in cells:
            check_resources(cell.config, ["pretrain", "evaluate"], cluster_resources())
        rows: list[dict[str, Any]] = []
        for done, cell in enumerate(cells, 1):
            rows += run_cell(cell)
            log.info("%d of %d cells done", done, len(cells))
        print(table(rows))
        output = Storage.of(cells[0].config.lake).sub("experiments")
        name = f"results-{Path(arguments.grid).stem}.parquet"
        output.write_table(name, pa.Table.from_pylist(rows))
        print(f"\nresults  {output.url(name)}")
    except DiffsasrecError as error:
        log.error("%s: %s", type(error).__name__, error)
        sys.exit(error.exit_code)
    finally:
        if ray.is_initialized():
            ray.shutdown()
