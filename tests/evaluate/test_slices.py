"""Parts of the holdout, against loops over users and targets."""

import numpy as np
import pytest

from diffsasrec.evaluate.metrics import gains
from diffsasrec.evaluate.slices import (
    AGE,
    EVENTS,
    POPULARITY,
    STARTS,
    Part,
    Slice,
    all_slices,
    places_of,
    slice_parts,
    slices_json,
)
from diffsasrec.sequences.histories import Histories, UserItems
from diffsasrec.sequences.holdout import Holdout
from diffsasrec.times import DAY

CUT, K = 1000 * DAY, 3
COUNTS = np.array([100, 50, 25, 10, 5, 5, 1, 0])
# per user: how many events, how many days before the cut the last of them lies, the targets
USERS = [(1, 0.5, [0]), (2, 8, [1, 6]), (12, 8, [6]), (60, 200, [2, 3])]


def held() -> Holdout:
    lengths = [number for number, _, _ in USERS]
    times = [
        CUT - int((age + back) * DAY) for number, age, _ in USERS for back in range(number)[::-1]
    ]
    offsets = np.r_[0, np.cumsum(lengths)]
    past = Histories(np.zeros(len(times), np.int32), np.array(times, np.int64), offsets)
    items = [item for _, _, targets in USERS for item in targets]
    targets = np.r_[0, np.cumsum([len(found) for _, _, found in USERS])]
    return Holdout(np.arange(len(USERS)), past, UserItems(np.array(items), targets))


LISTS = {
    "model": np.array([[0, 1, 2], [6, 1, 2], [1, 2, -1], [3, 4, 5]]),
    "counter": np.array([[1, 0, 2], [1, 2, 3], [6, 2, 3], [0, 1, 2]]),
}


def parts() -> dict[Slice, Part]:
    return slice_parts(held(), LISTS, cut=CUT, places_V=places_of(COUNTS), k=K)


def of_target(which: str, user: int, item: int) -> float:
    row = LISTS[which][user].tolist()
    return float(gains(K)["NDCG@3"][row.index(item) + 1 if item in row else 0])


def slow_values(each: Slice, which: str) -> list[float]:
    """Of the users that have targets in a part, the mean over these."""
    places = {item: 100 * sum(count < COUNTS) / 7 for item, count in enumerate(COUNTS)}
    found = []
    for user, (number, age, targets) in enumerate(USERS):
        values = [
            of_target(which, user, item)
            for item in targets
            if each.start
            <= {EVENTS: number, AGE: age, POPULARITY: places[item]}[each.by]
            < (each.stop or np.inf)
        ]
        if values:
            found.append(sum(values) / len(values))
    return found


@pytest.mark.parametrize("each", all_slices(), ids=str)
def test_a_part_has_the_mean_of_its_targets_of_each_user_who_has_some(each: Slice):
    part, model, counter = parts()[each], slow_values(each, "model"), slow_values(each, "counter")
    assert part.model.num_users == part.differences.num_users == len(model)
    assert part.model.mean() == pytest.approx(np.mean(model) if model else 0)
    if model:
        differences = np.subtract(model, counter)
        assert 2 * part.differences.mean() - 1 == pytest.approx(differences.mean())


def test_the_parts_of_users_hold_each_user_once():
    found = parts()
    for by in (EVENTS, AGE):
        assert sum(found[each].model.num_users for each in all_slices() if each.by == by) == 4


def test_parts_follow_each_other_and_the_last_has_no_end():
    for by, starts in STARTS.items():
        mine = [each for each in all_slices() if each.by == by]
        assert [each.start for each in mine] == list(starts)
        assert [each.stop for each in mine] == [*starts[1:], None]


def test_a_place_is_the_share_of_known_items_that_are_more_popular():
    assert places_of(COUNTS)[:7] == pytest.approx([100 * n / 7 for n in (0, 1, 2, 3, 4, 4, 6)])


def test_parts_of_buckets_add_up():
    one = parts()
    both = {each: part + one[each] for each, part in one.items()}
    assert all(both[each].model.num_users == 2 * one[each].model.num_users for each in one)


def test_what_is_written_is_the_parts_that_have_users():
    rows = slices_json(parts(), counter="popular", metric="NDCG@3", samples=50, seed=0)
    events = [(row["from"], row["to"], row["n"]) for row in rows if row["by"] == EVENTS]
    assert events == [(1, 3, 2), (10, 50, 1), (50, None, 1)]
    one_user = rows[1]  # the counter has the only target first, the model not at all
    assert (one_user["NDCG@3"], one_user["difference"]) == (0.0, -1.0)
    assert one_user["difference_ci"] == [-1.0, -1.0]
