"""What a night says at its end."""

from typing import Any

from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from jobs.observe.summary import ShownUser, places, user_lines, warning


def metrics(model: float) -> dict[str, Any]:
    return {"model": {"NDCG@5": model}, "baselines": {"popular": {"NDCG@5": 0.2}}}


def test_a_model_that_is_no_better_than_a_counter_gets_a_remedy_that_helps():
    assert warning(metrics(0.3), k=5) is None
    text = warning(metrics(0.2), k=5) or ""
    assert text.startswith("WARNING: the model is no better than popular; ")
    assert "more epochs" in text and "warmup" not in text  # which follows the size of a log


def test_the_end_says_where_everything_is_and_what_to_call_next():
    run = RunDir(lake=Storage.of("lake"), ds="2024-02-29", run_id="r1", identity="i", attempt="a")
    text = "\n".join(places(run, number=7, user="a b", words=["--config", "my.yaml"]))
    assert "part-r1-00000007-*.parquet" in text
    assert "/lake/runs/ds=2024-02-29/r1/report.html" in text
    assert "/lake/reports/index.html" in text
    assert "--user 'a b'" in text
    assert text.endswith("python -m jobs.nightly --config my.yaml --date 2024-03-01")
    assert "--item" not in text  # the night made no table of items
    assert any(
        "--item 'c d'" in line for line in places(run, number=7, user="", words=[], item="c d")
    )


def test_lists_show_titles_beside_the_ids_and_dates_of_the_history():
    row = {"user_id": 1, "history_len": 9, "items": [{"item_id": 7}, {"item_id": 8}]}
    user = ShownUser(row, [7], [1704067200000000])
    names = {7: "tea (7)", 8: "8"}
    assert user_lines([user], lambda ids: [names[one] for one in ids]) == [
        "user 1: 9 events, last tea (7) 01 Jan",
        "       next: tea (7); 8",
    ]


def test_long_lists_go_on_below_where_they_begin():
    row = {"user_id": 1, "history_len": 9, "items": [{"item_id": n} for n in range(9)]}
    _, *shown = user_lines([ShownUser(row, [7], [0])], lambda ids: [f"a title of {i}" for i in ids])
    first = "; ".join(f"a title of {n}" for n in range(7))
    assert shown == [f"       next: {first};", "             a title of 7; a title of 8"]
