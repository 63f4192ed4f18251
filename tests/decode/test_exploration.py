"""Which item exploring chooses."""

import math

import pytest
import torch

from diffsasrec.decode.exploration import Exploration

PROBABILITIES = [0.4, 0.3, 0.2, 0.1]


def choice(shown: list[int] | None, ratio: float) -> int:
    logits = torch.tensor([PROBABILITIES]).log() + 5.0
    counts = None if shown is None else torch.tensor([shown], dtype=torch.float32)
    return int(Exploration(1, ratio).choice(logits, counts))


@pytest.mark.parametrize(
    ("shown", "ratio", "expected"),
    [
        ([0, 0, 0, 0], 0.1, 0),  # equally rare: the most probable
        ([9, 9, 9, 9], 0.1, 0),
        ([1, 0, 0, 0], 0.7, 1),  # .4 / 2, .3, .2, .1
        ([3, 2, 0, 9], 0.5, 2),  # .4 / 4, .3 / 3, .2, .1 / 10
        ([3, 2, 0, 9], 0.51, 0),  # .2 is less than .51 * .4: the place goes to the best after all
        ([9, 9, 9, 0], 0.3, 0),
        ([9, 9, 9, 0], 0.2, 3),
        ([9, 9, 9, 0], 1.0, 0),
    ],
)
def test_a_rarely_shown_item_is_chosen_where_it_is_nearly_as_probable(shown, ratio, expected):
    assert choice(shown, ratio) == expected


def test_where_nothing_is_known_of_any_item_the_most_probable_is_chosen():
    assert choice(None, 0.01) == 0


def test_a_place_without_an_item_is_chosen_only_where_there_is_no_other():
    nothing = -math.inf
    logits = torch.tensor([[nothing, 1.0, 0.9], [nothing] * 3])
    shown = torch.tensor([[0.0, 50.0, 0.0], [3.0, 2.0, 1.0]])
    assert Exploration(1, 0.5).choice(logits, shown).tolist() == [2, 0]
