"""A night that takes over what the night before has read, beside one that reads all."""

from typing import Any

import pytest
from night_logs import bytes_of, config_of, opened, prepared, publish, write_part

from diffsasrec.config.config import Config
from jobs.prepare import prepare
from jobs.takeover.taking import Taking

FIRST, SECOND, THIRD = "2024-03-01", "2024-03-02", "2024-03-03"


def both(config: Config, ds: str) -> dict[str, Any]:
    """What a night takes over. Another one that reads all writes the same bytes."""
    run, record = prepared(config, ds, f"night-{ds}")
    other = opened(config, ds, f"all-of-{ds}")
    full = prepare(config, other, Taking(why_not="it reads all"))
    mine, theirs = bytes_of(run), bytes_of(other)
    assert mine.keys() == theirs.keys()
    assert [path for path in mine if mine[path] != theirs[path]] == []
    assert vars(record) == {**vars(full), "taken_over": record.taken_over}
    publish(config, run, record)
    assert record.taken_over is not None
    return dict(record.taken_over)


@pytest.mark.parametrize("lookback", [None, 9], ids=["all", "lookback"])
def test_nights_that_take_over_write_what_nights_that_read_all_write(cluster, tmp_path, lookback):
    log = tmp_path / "log"
    for number in range(20, 30):
        write_part(log / f"dt=2024-02-{number}/a.parquet", f"2024-02-{number}", seed=number)
    config = config_of(log, tmp_path / "lake", events={"lookback_days": lookback})
    run, record = prepared(config, FIRST, "night-1")
    publish(config, run, record)
    assert record.taken_over == {
        "why_not": "no earlier night is published, or --keep has deleted them all"
    }

    write_part(log / f"dt={FIRST}/a.parquet", FIRST, seed=41)
    write_part(log / "dt=2024-02-25/late.parquet", "2024-02-25", seed=42, num=60, late=30)
    taken = both(config, SECOND)
    assert (taken["new_files"], taken["run_id"]) == (2, "night-1")
    taken = both(config, THIRD)  # nothing new but what was too new
    assert taken["new_files"] == 0 and taken["files_read_again"] > 0
