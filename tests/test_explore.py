"""The noise of exploring, and what it depends on."""

import math

import numpy as np
import pytest
import torch

from diffsasrec.explore import Exploration, gumbel_noise, history_keys, mix_bits

ITEMS = np.array([3, 1, 2, 3, 1, 2], np.int32)
TIMES = np.array([10, 20, 30, 10, 20, 30], np.int64)
OFFSETS = np.array([0, 3, 3, 6])


def keys_of(items=ITEMS, times=TIMES, offsets=OFFSETS, query_time=99) -> list[int]:
    return history_keys(items, times, offsets, query_time=query_time).tolist()


def test_bits_are_mixed_as_splitmix64_does():
    published = 0xE220A8397B1DCDAF  # its first number from the state 0
    assert mix_bits(torch.tensor(0)).item() % 2**64 == published


def test_the_noise_is_that_of_gumbel_and_knows_the_key_and_the_item_alone():
    keys, items = torch.arange(300), torch.arange(1000).expand(300, 1000)
    noise = gumbel_noise(keys, items)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    rows = noise - noise.mean()
    assert abs((rows[1:] * rows[:-1]).mean().item()) < 0.01  # of neighbouring keys
    assert abs((rows[:, 1:] * rows[:, :-1]).mean().item()) < 0.01  # of neighbouring items
    assert torch.equal(gumbel_noise(keys[7:8], items[:1, 40:50]), noise[7:8, 40:50])


def test_equal_histories_have_equal_keys_and_an_empty_one_has_a_key():
    first, empty, second = keys_of()
    assert first == second != empty


@pytest.mark.parametrize(
    "changed",
    [
        {"items": np.array([3, 1, 4, 3, 1, 2], np.int32)},
        {"times": np.array([10, 20, 31, 10, 20, 30], np.int64)},
        {"offsets": np.array([0, 2, 2, 6])},
    ],
)
def test_a_key_changes_with_the_history(changed):
    assert keys_of(**changed)[0] != keys_of()[0]
    assert keys_of(**changed)[2] == keys_of()[2] or "offsets" in changed


def test_every_key_changes_with_the_query_time():
    later = keys_of(query_time=100)
    assert all(one != other for one, other in zip(keys_of(), later, strict=True))


def test_exploring_adds_noise_and_takes_away_popularity():
    logprobs, items = torch.tensor([[-1.0, -2.0, -torch.inf]]), torch.tensor([[2, 0, -1]])
    keys, popularity = torch.tensor([5]), torch.tensor([4.0, 9.0, 1.0])
    adjusted = Exploration(1, lift=0.5, temperature=2.0).adjusted(logprobs, items, keys, popularity)
    noise = gumbel_noise(keys, items)
    expected = [-1.0 - 0.5 + 2 * noise[0, 0].item(), -2.0 - 2.0 + 2 * noise[0, 1].item(), -math.inf]
    assert adjusted[0].tolist() == pytest.approx(expected)
    unknown = Exploration(1, lift=0.5, temperature=0.0).adjusted(logprobs, items, keys, None)
    assert torch.equal(unknown, logprobs)
