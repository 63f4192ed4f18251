"""`--dry-run`: what a sample of the log shows, and what a night will take."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from diffsasrec.config.config import Config
from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.storage import Storage, to_json
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.log_files import inspect_inputs
from diffsasrec.lake.chain import append_entry
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.times import microseconds
from jobs.faults.rig.nights import DATE, toy_log
from jobs.planning.cost import stage_resources
from jobs.planning.estimate import (
    Size,
    as_then,
    by_rates,
    newest_night,
    num_distinct,
    num_trainings,
)
from jobs.planning.log_sample import Sample, check_sample, missing_days, sample_lines, take_sample
from jobs.planning.memory import memory_of

CLUSTER = {"CPU": 2.0, "GPU": 0.0}


def config(path: Path | str, *sets: str) -> Config:
    return load_config(f"lake: lake\nevents: {{path: {path}, time_unit: s}}", sets)


def files_of(*paths: Path) -> list[InputFile]:
    return [InputFile(str(path), path.stat().st_size, "1") for path in paths]


def sampled(settings: Config, *paths: Path) -> Sample:
    """A sample that was looked at, and refused where the run would be."""
    found = inspect_inputs(files_of(*paths), settings.events)
    sample = take_sample(found, settings.events, before=microseconds(DATE))
    check_sample(sample, found, settings.events, before=microseconds(DATE))
    return sample


def written(path: Path, **columns: Any) -> Path:
    toy_log().assign(**columns).to_parquet(path)
    return path


def test_a_sample_counts_what_is_good_bad_and_late(tmp_path: Path):
    log = toy_log()
    log["item_id"] = log.item_id.where(log.index % 50 > 0, None)
    log["timestamp"] = log.timestamp.where(log.index % 10 != 3, 1_710_000_000)  # after the date
    log.to_parquet(tmp_path / "log.parquet")
    settings = config(tmp_path / "log.parquet", "events.max_bad_fraction=0.1")
    sample = sampled(settings, tmp_path / "log.parquet")
    bad, late = int(log.item_id.isna().sum()), int((log.timestamp == 1_710_000_000).sum())
    assert sample.num_bad() == bad > 0
    assert sample.counts["rows"] == len(log) == sample.counts["kept"] + bad + late
    text = "\n".join(sample_lines(sample))
    assert f"null_item_id: {bad}, as in {tmp_path}/log.parquet, row group 0: user_id" in text
    assert f"{late} at or after the run date" in text


def test_types_are_counted_and_a_log_without_a_target_is_refused(tmp_path: Path, caplog):
    path = written(tmp_path / "log.parquet", kind=["view", "refund"] * (len(toy_log()) // 2))
    typed = "events.types={view: {weight: 0.5}, cart: {target: false}}"
    settings = config(path, "events.type_column=kind", typed)
    text = "\n".join(sample_lines(sampled(settings, path)))
    half = len(toy_log()) // 2
    assert f"kept by type: view {half}" in text and f"filtered by type: refund {half}" in text
    assert "no event is of the type cart of events.types; kind has: refund, view" in caplog.text
    other = config(path, "events.type_column=kind", "events.types={view: {target: false}, buy: {}}")
    with pytest.raises(ConfigError, match=r"no event is of a target type \(buy\)"):
        sampled(other, path)
    found = inspect_inputs(files_of(path), other.events)
    part = take_sample(found, other.events, before=microseconds(DATE))
    part.is_whole = False
    check_sample(part, found, other.events, before=microseconds(DATE))
    assert "the run may be refused" in caplog.text


def test_lines_that_are_no_rows_are_shown(tmp_path: Path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n1,a,1704067200\n1,b\n2,c,1704067300\n")
    settings = config(path, "events.format=csv", "events.max_bad_fraction=0.5")
    assert any(
        "malformed_row: 1" in line and "1,b" in line
        for line in sample_lines(sampled(settings, path))
    )


def test_too_many_bad_rows_are_refused_with_an_example(tmp_path: Path):
    path = written(tmp_path / "log.parquet", timestamp=-5)
    with pytest.raises(InputDataError, match=r"negative_time \(1266\), as in .*timestamp -5"):
        sampled(config(path), path)


@pytest.mark.parametrize(("written_in", "factor"), [("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_times_that_make_sense_in_another_unit_alone_name_it(tmp_path, written_in, factor):
    path = written(tmp_path / "log.parquet", timestamp=toy_log().timestamp * factor)
    with pytest.raises(ConfigError, match=f"set it to {written_in}"):
        sampled(config(path), path)


def test_seconds_that_are_read_as_milliseconds_are_seen(tmp_path: Path):
    path = written(tmp_path / "log.parquet")
    with pytest.raises(ConfigError, match=r"around 1970-01-20.*set it to s"):
        sampled(config(path, "events.time_unit=ms"), path)


def test_times_that_make_sense_in_no_unit_are_a_warning(tmp_path: Path, caplog):
    path = written(tmp_path / "log.parquet", timestamp=np.arange(1266))
    sampled(config(path), path)
    assert "times lie around 1970-01-01" in caplog.text


def test_a_log_that_begins_after_the_run_date_is_refused(tmp_path: Path):
    path = written(tmp_path / "log.parquet", timestamp=1_710_000_000)
    with pytest.raises(InputDataError, match=r"none of .* is an event before the run date"):
        sampled(config(path), path)


def test_a_sample_is_bounded_and_taken_from_all_over_the_log(tmp_path: Path):
    paths = [written(tmp_path / f"{number}.parquet") for number in range(9)]
    events = config(tmp_path).events
    found = inspect_inputs(files_of(*paths), events)
    sample = take_sample(found, events, before=microseconds(DATE), most_fragments=4)
    assert sample.counts["rows"] == 4 * len(toy_log()) and not sample.is_whole


# --- estimates ---


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
def test_the_rows_of_a_log_are_estimated_from_its_files(tmp_path: Path, kind):
    log = pd.concat([toy_log()] * 20)
    path = tmp_path / f"log.{kind}"
    write = log.to_parquet if kind == "parquet" else partial(log.to_csv, index=False)
    write(path)
    ids = [pa.array(toy_log().user_id)]
    size = Size.of_sample(ids, ids, files_of(path), kind.partition(".")[0])
    assert size.rows == pytest.approx(len(log), rel=0 if kind == "parquet" else 0.05)


def test_ids_that_every_chunk_brings_anew_grow_with_the_log_and_others_do_not():
    sorted_log = [pa.array(np.repeat(np.arange(10) + 10 * chunk, 5)) for chunk in range(4)]
    assert num_distinct(sorted_log, 2000) == 400
    mixed = [pa.array(np.tile(np.arange(10), 5)) for _ in range(4)]
    assert num_distinct(mixed, 2000) == 10


def night(**changes: Any) -> dict[str, Any]:
    settings = config("log.parquet").resolved()
    seconds = {"prepare": 10.0, "pretrain": 20.0, "refit": 30.0, "score": 40.0}
    return {
        "config": settings,
        "inputs": [{"path": "log", "size": 100}],
        "counts": {"prepare": {"rows": 1000, "users": 50, "items": 30}},
        "seconds": seconds,
    } | changes


def test_the_same_log_takes_what_it_took():
    settings = config("log.parquet")
    size, seconds = as_then(
        settings, night(), [InputFile("log", 100, "1")], stage_resources(settings, CLUSTER)
    )
    assert (size, seconds) == (Size(1000, 50, 30), night()["seconds"])


def test_four_times_the_log_with_twice_the_epochs_on_twice_the_workers():
    settings = config("log.parquet", "pretrain.epochs=2", "train.num_workers=4")
    used = {"cpu_hours": 2 * 20 / 3600, "gpu_hours": 0.0}  # two workers then
    then = night(cost={"stages": {"pretrain": used}})
    size, seconds = as_then(
        settings, then, [InputFile("log", 400, "1")], stage_resources(settings, CLUSTER)
    )
    assert size == Size(4000, 200, 60)
    assert seconds["prepare"] == 40
    assert seconds["pretrain"] == pytest.approx(20 * 4 * 2 / 2)
    assert seconds["score"] == 40 * 4 * 2  # users and items


def test_a_night_trains_twice_before_its_refit_where_the_second_cut_chooses():
    given = "finetune.state_weight=1", "finetune.ranker_weight=0"
    earlier = config("log.parquet", *given).resolved()
    for key in ("state_weight", "ranker_weight"):
        del earlier["finetune"][key]  # the configuration of an earlier version
    for changed, times in (
        (config("log.parquet").resolved(), 2),
        (config("log.parquet", *given).resolved(), 1),
        (config("log.parquet", given[0]).resolved(), 2),
        (config("log.parquet", given[0], "model.ranker=false").resolved(), 1),
        (config("log.parquet", given[0], "score.filter_seen=false").resolved(), 1),
        (config("log.parquet", *given, "finetune.patience=1").resolved(), 2),
        (config("log.parquet", "model.trends=false").resolved(), 1),
        (earlier, 1),
    ):
        assert num_trainings(changed) == times
    settings = config("log.parquet")
    then, files = night(config=earlier), [InputFile("log", 100, "1")]
    _, seconds = as_then(settings, then, files, stage_resources(settings, CLUSTER))
    assert (seconds["pretrain"], seconds["refit"]) == (2 * 20, 30)


def test_without_a_night_more_of_everything_takes_longer_and_more_memory():
    settings = config("log.parquet")
    resources = stage_resources(settings, CLUSTER)
    small, large = Size(1e6, 1e4, 1e4), Size(1e7, 1e5, 1e5)
    less, more = by_rates(settings, small, resources), by_rates(settings, large, resources)
    assert all(less[stage] < more[stage] for stage in less)
    least, most = (memory_of(settings, **vars(size)) for size in (small, large))
    assert all(least[stage] < most[stage] for stage in least)


def test_the_night_that_is_scaled_is_the_newest_that_has_trained(tmp_path: Path):
    lake = Storage.of(str(tmp_path))
    assert newest_night(lake) is None
    for number, reused in enumerate([None, {"run_id": "r0"}]):
        run = RunDir(lake, f"2024-03-0{number + 1}", f"r{number}", "identity", "attempt")
        run.storage.write_bytes(
            "manifest.json", to_json({"run_id": f"r{number}", "reused": reused})
        )
        append_entry(lake, run, "digest")
    assert newest_night(lake) == {"run_id": "r0", "reused": None}


def test_a_small_log_of_many_files_is_read_whole_and_refused_only_as_the_run_would(tmp_path: Path):
    log = toy_log()
    log["item_id"] = log.item_id.where(log.index >= 8, None)  # all of them in the first file
    for number, part in enumerate(np.array_split(np.arange(len(log)), 40)):
        log.sort_index().iloc[part].to_parquet(tmp_path / f"{number:02}.parquet")
    files = files_of(*sorted(tmp_path.glob("*.parquet")))
    events = config(tmp_path, "events.max_bad_fraction=0.01").events
    found = inspect_inputs(files, events)
    sample = take_sample(found, events, before=microseconds(DATE))
    assert sample.is_whole and sample.counts["rows"] == len(log) and sample.num_bad() == 8
    check_sample(sample, found, events, before=microseconds(DATE))  # 8 of some 1,200


def test_of_a_part_of_the_log_only_what_proves_too_much_is_refused(tmp_path: Path, caplog):
    settings = config(written(tmp_path / "log.parquet", timestamp=-5))
    found = inspect_inputs(files_of(tmp_path / "log.parquet"), settings.events)
    sample = take_sample(found, settings.events, before=microseconds(DATE))
    sample.is_whole, sample.counts["kept"] = False, 1
    sample.times = [np.array([microseconds(DATE) - 1])]
    check = partial(check_sample, sample, found, settings.events, before=microseconds(DATE))
    with pytest.raises(InputDataError, match="negative_time"):
        check(num_rows=99 * len(toy_log()))  # of which 1 % may be bad
    check(num_rows=101 * len(toy_log()))
    assert "the run may be refused" in caplog.text


def test_days_before_the_run_date_that_are_missing_are_named():
    events = config("log", "events.partition_column=dt").events
    files = [InputFile(f"log/dt=2024-02-{day}/part-0.parquet", 1, "1") for day in (27, 28)]
    assert missing_days(Sample(), files, events, "2024-02-29") is None
    line = missing_days(Sample(), files, events, "2024-03-01")
    assert line is not None and "2024-02-28, and the run date is 2024-03-01" in line
    whole = Sample(times=[np.array([microseconds("2024-02-27"), microseconds("2024-03-05")])])
    assert "2024-02-27" in str(missing_days(whole, [], config("log").events, "2024-03-01"))
    assert missing_days(Sample(is_whole=False), [], config("log").events, "2024-03-01") is None
