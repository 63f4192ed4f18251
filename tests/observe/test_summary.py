"""What a night says at its end."""

from typing import Any

from jobs.observe.summary import warning


def metrics(model: float) -> dict[str, Any]:
    return {"model": {"NDCG@5": model}, "baselines": {"popular": {"NDCG@5": 0.2}}}


def test_a_model_that_is_no_better_than_a_counter_gets_a_remedy_that_helps():
    assert warning(metrics(0.3), k=5) is None
    text = warning(metrics(0.2), k=5) or ""
    assert text.startswith("WARNING: the model is no better than popular; ")
    assert "more epochs" in text and "warmup" not in text  # which follows the size of a log
