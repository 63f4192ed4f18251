"""Grids of variants, and the table of what they measured."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from diffsasrec.config.data import EventsConfig
from diffsasrec.errors import ConfigError
from diffsasrec.evaluate.metrics import gains
from jobs.experiment.cells import listing_of
from jobs.experiment.grid import SASREC, Cell, read_cells
from jobs.experiment.table import METRICS, best_baseline, lines_of, table
from jobs.faults.rig.nights import DATE, ROOT, lean_config

LEAST = "lake: lake\nevents: {path: log.parquet}\nscore: {k: 5}\nevaluate: {ks: [5]}\n"
LEAST += "gate: {metric: NDCG@5}\n"
SHOP = {"shop": {"date": "2011-12-31"}}


def cells_of(tmp_path: Path, grid: Any, config: str = LEAST) -> list[Cell]:
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "grid.yaml").write_text(
        grid if isinstance(grid, str) else yaml.safe_dump(grid, sort_keys=False)
    )
    return read_cells(str(tmp_path / "config.yaml"), str(tmp_path / "grid.yaml"))


def refusal(tmp_path: Path, grid: Any, config: str = LEAST) -> str:
    with pytest.raises(ConfigError) as caught:
        cells_of(tmp_path, grid, config)
    return str(caught.value)


# --- the cells of a grid ---


def test_the_causal_sasrec_is_in_every_grid_and_comes_first(tmp_path):
    cells = cells_of(tmp_path, {"data": SHOP})
    assert [cell.variant for cell in cells] == [SASREC, "default"]
    sasrec, default = (cell.config for cell in cells)
    assert (sasrec.model.kind, sasrec.model.attention) == ("sasrec", "causal")
    assert (sasrec.finetune.epochs, sasrec.score.decode) == (0, "single")
    assert not (sasrec.model.time_inputs or sasrec.model.trends or sasrec.model.copy_score)
    # it differs in nothing else
    assert sasrec.pretrain.epochs == default.pretrain.epochs + default.finetune.epochs
    same_epochs = sasrec.pretrain.model_copy(update={"epochs": default.pretrain.epochs})
    assert same_epochs == default.pretrain and sasrec.split == default.split
    assert sasrec.model.hidden_size == default.model.hidden_size


def test_a_cell_is_every_variant_on_every_log_with_every_seed_and_sasrec_with_the_first(tmp_path):
    grid = {
        "data": {**SHOP, "films": {"date": "2015-03-31", "set": {"score.filter_seen": True}}},
        "seeds": [0, 7],
        "variants": {"default": {}, "no trends": {"model.trends": False, "seed": 3}},
    }
    cells = cells_of(tmp_path, grid, LEAST.replace("{k: 5}", "{k: 5, filter_seen: false}"))
    found = [(cell.data, cell.variant, cell.seed) for cell in cells]
    per_log = [(SASREC, 0), *((v, s) for v in ("default", "no trends") for s in (0, 7))]
    assert found == [(d, v, s) for d in ("shop", "films") for v, s in per_log]
    for cell in cells:
        assert cell.config.seed == cell.seed
        assert cell.config.score.filter_seen == (cell.data == "films")
        assert cell.config.model.trends == (cell.variant == "default")
    assert {cell.date for cell in cells} == {date(2011, 12, 31), date(2015, 3, 31)}


def test_a_typo_in_a_key_of_a_variant_or_a_log_is_refused_before_anything_runs(tmp_path):
    variants = {"default": {}, "no trends": {"model.trend": False}}
    message = refusal(tmp_path, {"data": SHOP, "variants": variants})
    assert "model.trend" in message and "did you mean model.trends" in message
    data = {"shop": {"date": "2011-12-31", "set": {"events.pth": "shop.parquet"}}}
    assert "events.pth" in refusal(tmp_path, {"data": data})


def test_values_that_do_not_go_together_are_refused(tmp_path):
    variants = {"sasrec": {"model.kind": "sasrec", "model.attention": "prefix"}}
    assert "model.attention=prefix" in refusal(tmp_path, {"data": SHOP, "variants": variants})


@pytest.mark.parametrize("key", ["dta", "variant", "seed"])
def test_an_unknown_key_of_a_grid_is_named(tmp_path, key):
    assert key in refusal(tmp_path, {"data": SHOP, key: {}})


@pytest.mark.parametrize("grid", [{}, {"data": {}}, {"data": SHOP, "seeds": []}, "data: [", ""])
def test_a_grid_without_logs_or_seeds_or_yaml_is_refused(tmp_path, grid):
    assert "grid.yaml" in refusal(tmp_path, grid)


def test_a_log_needs_a_date(tmp_path):
    assert "date" in refusal(tmp_path, {"data": {"shop": {}}})


def test_a_name_that_is_taken_is_refused(tmp_path):
    assert SASREC in refusal(tmp_path, {"data": SHOP, "variants": {SASREC: {}}})


def test_a_file_that_is_not_there_is_named_with_its_option(tmp_path):
    (tmp_path / "config.yaml").write_text(LEAST)
    with pytest.raises(ConfigError, match=r"--grid .*grid\.yaml can't be read"):
        read_cells(str(tmp_path / "config.yaml"), str(tmp_path / "grid.yaml"))
    with pytest.raises(ConfigError, match=r"--config .*none\.yaml can't be read"):
        read_cells(str(tmp_path / "none.yaml"), str(tmp_path / "grid.yaml"))


@pytest.mark.parametrize("age", [0, 30, 1.5, "second_cut"])
def test_a_checkpoint_may_be_days_old_or_as_old_as_the_second_cut(tmp_path, age):
    cells = cells_of(tmp_path, {"data": SHOP, "variants": {"old": {"checkpoint_age": age}}})
    assert [cell.checkpoint_age for cell in cells] == [0.0, age]
    assert cells[1].config == cells_of(tmp_path, {"data": SHOP})[1].config  # it is no config key


@pytest.mark.parametrize("age", [-1, "a month", [30], None])
def test_another_checkpoint_age_is_refused_with_the_remedy(tmp_path, age):
    grid = {"data": SHOP, "variants": {"old": {"checkpoint_age": age}}}
    message = refusal(tmp_path, grid)
    assert "old: checkpoint_age=" in message and "give days or second_cut" in message


def test_the_shipped_grid_loads_with_the_shipped_config():
    jobs = ROOT / "jobs"
    cells = read_cells(str(jobs / "experiment.yaml"), str(jobs / "grid.yaml"))
    assert {SASREC, "default"} <= {cell.variant for cell in cells}


# --- the table ---


def row(
    data: str, variant: str, ranks: list[int], *, seed: int = 0, kind: str = "model"
) -> dict[str, Any]:
    """What `measure_cell` gives, at 5: its ranks decide, the other figures are their number."""
    values = {name.split("@")[0]: float(gain[ranks].mean()) for name, gain in gains(5).items()}
    return {
        "kind": kind,
        "data": data,
        "variant": variant,
        "seed": seed,
        **{name: float(len(ranks)) for name in METRICS},
        **values,
        "k": 5,
        "users": len(ranks),
        "gains": gains(5)["NDCG@5"][ranks].tolist(),
        "seconds": 60.0,
        "sequences": 1000,
    }


def counter(data: str, variant: str, ranks: list[int]) -> dict[str, Any]:
    return row(data, variant, ranks, kind="counter")


# NDCG@5 is 1 at rank 1, 1/2 at rank 3, 0 where missed; so many users that samples have all kinds
ROWS = [
    counter("shop", "popular", [3, 0, 0, 0] * 25),
    counter("shop", "item-kNN", [1, 1, 0, 0] * 25),  # 0.5: the best
    row("shop", SASREC, [3, 3, 0, 0] * 25),  # 0.25
    row("shop", "default", [1, 1, 3, 3] * 25),  # 0.75
    counter("films", "popular", [3, 0] * 40),  # 0.25
    counter("films", "item-kNN", [3, 0] * 40),
    row("films", SASREC, [1, 0] * 40),  # 0.5: the best
    row("films", "default", [1, 3] * 40),  # 0.75
]


def lines_with(text: str, variant: str) -> list[list[float]]:
    """The numbers in the lines of a variant, without the intervals."""
    lines = [line for line in text.splitlines() if line.startswith(f"{variant} ")]
    words = [line.removeprefix(variant).split() for line in lines]
    return [[float(word) for word in line if not word.startswith("(")] for line in words]


def test_the_best_baseline_is_a_counter_or_the_causal_sasrec_but_never_a_variant():
    assert best_baseline(ROWS, "shop") == "item-kNN"
    assert best_baseline(ROWS, "films") == SASREC


def test_a_table_has_the_ratio_to_the_best_baseline_of_each_log_and_their_geometric_mean():
    text = table(ROWS)
    assert "shop, 100 holdout users, at 5; ratio to item-kNN" in text
    assert f"films, 80 holdout users, at 5; ratio to {SASREC}" in text
    shop, films, overall = lines_with(text, "default")
    assert shop[:2] == [0.75, 1.5] and films[:2] == [0.75, 1.5] and overall == [1.5]
    shop, films, overall = lines_with(text, SASREC)
    assert shop[:2] == [0.25, 0.5] and films[:2] == [0.5, 1.0]
    assert overall == [pytest.approx(0.5**0.5, abs=1e-3)]


def test_a_line_holds_the_other_figures_in_the_order_of_the_head():
    shop = lines_with(table(ROWS), "default")[0]
    # HR, MRR, then what is no function of the ranks, seconds and sequences
    assert shop[2:4] == [1.0, pytest.approx((1 + 1 + 1 / 3 + 1 / 3) / 4, abs=1e-4)]
    assert shop[4:] == [100.0, 100.0, 100.0, 60.0, 1000.0]


def test_variants_are_ordered_by_ndcg():
    text = table(ROWS).split("\n\n")[0]
    names = [line.split("  ")[0] for line in text.splitlines()[2:]]
    assert names == ["default", "item-kNN", SASREC, "popular"]


def test_the_ratio_of_the_best_baseline_to_itself_is_certain():
    line = next(x for x in table(ROWS).splitlines() if x.startswith("item-kNN"))
    assert "1.000 (1.000-1.000)" in line


def test_an_interval_is_paired_with_the_users_of_the_baseline():
    # every user's gain is twice that of the baseline: no sample has another ratio
    rows = [
        counter("shop", "popular", [3] * 10),
        row("shop", SASREC, [5] * 10),
        row("shop", "default", [1] * 10),
    ]
    line = next(x for x in table(rows).splitlines() if x.startswith("default"))
    assert "2.000 (2.000-2.000)" in line


def test_seeds_are_averaged_user_by_user():
    seeds = [row("shop", "default", ranks, seed=n) for n, ranks in enumerate(([1, 0], [3, 3]))]
    rows = [row("shop", SASREC, [1, 1]), *seeds]
    line = lines_of(rows)["shop"]["default"]
    assert line.gains_U.tolist() == pytest.approx([0.75, 0.25])
    assert line.figures["NDCG"] == pytest.approx(0.5)
    assert lines_with(table(rows), "default")[0][:2] == [0.5, 0.5]


def test_a_variant_that_is_not_on_every_log_has_no_mean_over_them():
    rows = [*ROWS, row("shop", "only here", [1] * 100)]
    assert len(lines_with(table(rows), "only here")) == 1
    assert len(lines_with(table(rows), "default")) == 3


def test_a_counter_that_never_hits_has_a_mean_of_0():
    # as what the user had before, where that is filtered
    rows = [*ROWS[:4], counter("shop", "own most frequent", [0] * 100)]
    assert lines_with(table(rows), "own most frequent")[1] == [0.0]


@pytest.mark.night
def test_an_experiment_measures_every_cell_once(cluster, toy: Path, tmp_path: Path):
    lake, files = tmp_path / "lake", {name: tmp_path / f"{name}.yaml" for name in ("base", "grid")}
    files["base"].write_text(yaml.safe_dump(lean_config(str(toy), str(lake))))
    variants = {"default": {}, "multi": {"score.decode": "multi"}}
    grid = {"data": {"toy": {"date": DATE}}, "variants": variants}
    files["grid"].write_text(yaml.safe_dump(grid))
    command = [sys.executable, "-m", "jobs.experiment"]
    command += ["--config", str(files["base"]), "--grid", str(files["grid"]), "--new-lake"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, **cluster}, capture_output=True, text=True
        )

    def times() -> dict[Path, int]:
        runs = lake / "experiments" / "runs"
        return {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}

    first = run()
    assert first.returncode == 0, first.stderr
    before = times()
    second = run()
    assert second.returncode == 0, second.stderr
    assert times() == before  # nothing was trained, scored or measured again
    assert first.stdout == second.stdout
    rows = pq.read_table(lake / "experiments" / "results-grid.parquet").to_pylist()
    counters = ["popular", "recent popular", "decayed popular", "own most frequent", "item-kNN"]
    counters += ["item-item + popular", "own + popular"]
    assert [row["variant"] for row in rows] == [*counters, "causal SASRec", "default", "multi"]
    assert {len(row["gains"]) for row in rows} == {rows[0]["users"]}
    default, multi = rows[-2:]
    assert default["sequences"] == multi["sequences"] > 0
    assert default["seconds"] == multi["seconds"]  # one training for both


def test_cells_of_a_log_that_grows_meanwhile_read_the_same_files(tmp_path: Path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/one.csv").write_text("user_id,item_id,timestamp\n")
    events = EventsConfig(path=str(tmp_path / "log"), format="csv")
    first = listing_of(events.model_dump_json(), date(2024, 3, 1))
    (tmp_path / "log/two.csv").write_text("user_id,item_id,timestamp\n")
    again = EventsConfig(path=str(tmp_path / "log"), format="csv")
    assert listing_of(again.model_dump_json(), date(2024, 3, 1)) == first
    assert len(first[1]) == 1
