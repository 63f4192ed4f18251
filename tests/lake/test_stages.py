"""The table of stages, and what is made from it."""

from diffsasrec.lake.stages import OUTPUTS, REFUSING, SPARED, STAGES, WORKERS


def test_stages_run_in_this_order():
    assert STAGES == (
        "prepare",
        "pretrain",
        "finetune",
        "evaluate",
        "refit",
        "score",
        "publish",
    )
    assert tuple(OUTPUTS) == tuple(WORKERS) == STAGES


def test_reused_weights_spare_what_trains_and_measures():
    assert SPARED == ("pretrain", "finetune", "evaluate", "refit")
    training = [stage for stage, workers in WORKERS.items() if workers == "train"]
    assert training == ["pretrain", "finetune", "refit"]
    assert [stage for stage, workers in WORKERS.items() if workers == "score"] == [
        "evaluate",
        "score",
    ]


def test_each_check_refuses_in_one_stage():
    assert REFUSING == {"gate": "evaluate", "audit": "publish"}


def test_no_two_stages_write_to_one_place():
    names = [name for outputs in OUTPUTS.values() for name in outputs]
    assert len(names) == len(set(names))
