"""The model beside the best counter: worse only where the whole interval says so."""

import numpy as np
import pytest

from diffsasrec.evaluate.gate import gate_failures
from diffsasrec.evaluate.versus import Versus, spread_of_differences


def versus(model: list[float], counter: list[float]) -> Versus:
    spread = spread_of_differences(np.array(model), np.array(counter))
    return Versus.of(spread, counter="popular", metric="NDCG@10", samples=200, seed=0)


def test_the_difference_is_that_of_the_means():
    assert versus([0.2, 0.6], [0.3, 0.1]).difference == pytest.approx(0.2)
    assert versus([0.0, 0.0], [1.0, 0.5]).difference == pytest.approx(-0.75)


def test_a_model_is_worse_where_resampled_users_agree():
    assert versus([0.1] * 30, [0.2] * 30).is_worse
    # the mean is below 0, but by one user of thirty
    assert not versus([0.5] * 29 + [0.0], [0.5] * 29 + [1.0]).is_worse
    assert not versus([0.2] * 30, [0.2] * 30).is_worse
    assert not versus([0.1] * 29, [0.2] * 29).is_worse  # too few to say
    assert not versus([], []).is_worse


def test_users_are_paired():
    gains = np.random.default_rng(0).random(50)
    low, high = versus((gains * 0.9).tolist(), gains.tolist()).interval
    assert -0.08 < low < high < -0.03  # far narrower than the spread of the gains


def test_a_gate_that_refuses_says_how_much_worse_and_by_which_key():
    failures = gate_failures(
        {"n": 30, "NDCG@10": 0.1},
        floors={},
        metric="NDCG@10",
        max_relative_drop=None,
        previous=None,
        versus=versus([0.1] * 30, [0.2] * 30),
    )
    assert failures == [
        "the NDCG@10 of the model is 0.1000 below that of popular on the same users (95 % interval "
        "0.1000 to 0.1000) (gate.otherwise=refuse)"
    ]


def test_what_was_written_is_read():
    found = versus([0.1, 0.4], [0.2, 0.3])
    assert Versus.from_json(found.to_json()) == found
