"""The audit: users 1, 2, 3 and items a..f, of which f is not allowed."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.schema import recommendations_schema
from diffsasrec.score.audit import WRONG_USERS as USERS
from diffsasrec.score.audit import audit_bucket

VOCAB = pa.table({"item_id": ["a", "b", "c", "d", "e", "f"]})
ALLOWED = np.array([True, True, True, True, True, False])
HISTORY = {1: [0, 1, 0], 2: [2, 5], 3: []}
LISTS = {1: ["c", "d"], 2: ["a", "b"], 3: ["e", "a"]}
SHORT = "list: not 2 items"


def struct(item: str | None, score: float, rank: int) -> dict[str, object]:
    return {"item_id": item, "score": score, "rank": rank}


def ranked(items: list[str]) -> list[dict[str, object]]:
    return [struct(item, -0.5 * rank, rank) for rank, item in enumerate(items, start=1)]


def bucket(lists: dict[int, list], version: str | None = "v1") -> pa.Table:
    """Recommendations; a list holds item ids, or structs where a test plants a fault."""
    rows = [
        {
            "user_id": user,
            "items": ranked(items) if all(isinstance(i, str) for i in items) else items,
            "source": "model",
            "history_len": 3,
            "model_version": version,
        }
        for user, items in lists.items()
    ]
    return pa.Table.from_pylist(rows, schema=recommendations_schema(pa.int64(), pa.string()))


REST = {"history_len": 3, "source": "model"}


def histories(history: dict[int, list[int]], excluded: dict[int, list[int]] | None) -> pa.Table:
    schema = [("user_id", pa.int64()), ("items", pa.list_(pa.int32()))]
    schema += [("excluded", pa.list_(pa.int64()))]
    schema += [("history_len", pa.int32()), ("source", pa.string())]
    rows = [
        {"user_id": user, "items": items, "excluded": (excluded or {}).get(user, []), **REST}
        for user, items in history.items()
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def audit(
    table: pa.Table,
    *,
    history=HISTORY,
    k=2,
    filter_seen=True,
    allowed=ALLOWED,
    by_score=True,
    excluded=None,
    cap=None,
) -> Counter:
    return audit_bucket(
        table,
        histories(history, excluded),
        vocab=VOCAB,
        allowed=allowed,
        cap=cap,
        k=k,
        filter_seen=filter_seen,
        by_score=by_score,
        model_version="v1",
    )


def test_a_clean_bucket_breaks_no_rule():
    assert audit(bucket(LISTS)) == {}


def test_a_bucket_in_many_chunks_is_the_same_bucket():
    table = bucket(LISTS)
    assert audit(pa.concat_tables([table.slice(0, 1), table.slice(1)])) == {}


def test_an_empty_bucket_passes():
    assert audit(bucket({}), history={}) == {}


def test_users_without_any_candidate_have_empty_lists():
    assert audit(bucket({1: [], 2: [], 3: []}), allowed=np.zeros(6, bool)) == {}


def test_a_missing_user_is_found():
    assert audit(bucket({1: LISTS[1], 3: LISTS[3]})) == {USERS: 1}


def test_an_empty_bucket_where_users_were_expected_is_found():
    assert audit(bucket({})) == {USERS: 3}


def test_a_user_too_many_is_found():
    assert audit(bucket({**LISTS, 4: ["a", "b"]})) == {USERS: 1}


def test_a_user_twice_is_found():
    table = bucket(LISTS)
    assert audit(pa.concat_tables([table, table.slice(2)])) == {USERS: 1}


def test_a_wrong_order_of_users_is_found():
    assert audit(bucket({2: LISTS[2], 1: LISTS[1], 3: LISTS[3]})) == {USERS: 1}


def test_an_unknown_item_is_found():
    broken = audit(bucket({**LISTS, 2: ["a", "zzz"]}))
    assert broken == {"item: not in the vocabulary": 1}


def test_an_unknown_item_is_not_taken_for_one_of_the_user_before():
    broken = audit(bucket({**LISTS, 1: ["c", "f"], 2: ["a", "zzz"]}))
    assert broken == {
        "item: not in the vocabulary": 1,
        "item: denied, not allowed or not trained on": 1,
    }


def test_a_missing_item_id_is_found():
    broken = audit(bucket({**LISTS, 2: [struct("a", 1, 1), struct(None, 0, 2)]}))
    assert broken == {"item: not in the vocabulary": 1}


def test_an_item_that_is_not_allowed_is_found():
    broken = audit(bucket({**LISTS, 1: ["c", "f"]}))
    assert broken == {"item: denied, not allowed or not trained on": 1}


def test_a_seen_item_is_found_where_seen_items_are_filtered():
    assert audit(bucket({**LISTS, 1: ["c", "b"]})) == {"item: seen by the user": 1}


def test_a_seen_item_is_no_fault_where_they_are_not_filtered():
    assert audit(bucket({**LISTS, 1: ["c", "b"]}), filter_seen=False) == {}


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf"), None])
def test_a_score_that_is_not_finite_is_found(score):
    broken = audit(bucket({**LISTS, 2: [struct("a", 1, 1), struct("b", score, 2)]}))
    assert broken == {"score: not finite": 1}


@pytest.mark.parametrize("ranks", [(0, 1), (2, 1), (1, 1), (1, 3), (1, None)])
def test_ranks_that_do_not_count_from_one_are_found(ranks):
    broken = audit(bucket({**LISTS, 2: [struct("a", 1, ranks[0]), struct("b", 0, ranks[1])]}))
    assert broken == {"rank: not 1, 2, 3, ...": 1}


def test_an_item_twice_is_found():
    assert audit(bucket({**LISTS, 2: ["a", "a"]})) == {"list: an item twice": 1}


def test_a_list_that_is_too_short_although_candidates_are_left_is_found():
    broken = audit(bucket({**LISTS, 3: ["e"]}))
    assert broken == {f"{SHORT} although there are as many candidates": 1}


def test_a_list_that_is_too_long_is_found():
    broken = audit(bucket({**LISTS, 3: ["e", "a", "b"]}))
    assert broken == {f"{SHORT} although there are as many candidates": 1}


def test_a_short_list_is_fine_when_candidates_run_out():
    # of the five allowed items user 1 has seen two and user 2 one: three and four are left
    lists = {1: ["c", "d", "e"], 2: ["a", "b", "d", "e"], 3: ["a", "b", "c", "d", "e"]}
    assert audit(bucket(lists), k=10) == {}


def test_candidates_do_not_run_out_where_seen_items_are_not_filtered():
    lists = {1: ["c", "d", "e"], 2: list("abcde"), 3: list("edcba")}
    broken = audit(bucket(lists), k=10, filter_seen=False)
    assert broken == {"list: not 10 items although there are as many candidates": 1}


def test_rows_of_another_model_are_found():
    table = pa.concat_tables([bucket(LISTS).slice(0, 2), bucket(LISTS, "v2").slice(2)])
    assert audit(table) == {"model_version: not what it must be": 1}


def test_rows_that_name_no_model_are_found():
    assert audit(bucket(LISTS, None)) == {"model_version: not what it must be": 3}


def test_a_rule_counts_users_and_not_items():
    lists = {1: ["a", "b"], 2: ["a", "b"], 3: ["f", "f"]}
    assert audit(bucket(lists)) == {
        "item: seen by the user": 1,
        "item: denied, not allowed or not trained on": 1,
        "list: an item twice": 1,
    }


def test_a_score_above_that_of_a_better_rank_is_found_where_lists_are_ordered_by_score():
    table = bucket({**LISTS, 2: [struct("a", -2, 1), struct("b", -1, 2)]})
    assert audit(table) == {"score: higher than that of the item above": 1}
    assert audit(table, by_score=False) == {}


@pytest.mark.parametrize(("column", "value"), [("history_len", 2), ("source", "popular")])
def test_a_row_that_says_the_wrong_thing_of_its_list_is_found(column, value):
    table = bucket(LISTS)
    values = [value, *table[column].to_pylist()[1:]]
    place = table.schema.get_field_index(column)
    table = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
    assert audit(table) == {f"{column}: not what it must be": 1}


@pytest.mark.parametrize("filter_seen", [True, False])
def test_an_item_that_is_excluded_for_the_user_is_found(filter_seen):
    excluded = {1: [3], 2: [4]}
    assert audit(bucket(LISTS), excluded=excluded, filter_seen=filter_seen) == {
        "item: excluded for the user, or shown lately": 1
    }


def test_a_list_may_be_short_where_the_rest_is_excluded():
    short = bucket({**LISTS, 2: ["a"]})
    assert audit(short) == {f"{SHORT} although there are as many candidates": 1}
    assert audit(short, excluded={2: [1, 3, 4, 4, 2]}) == {}


def test_a_list_with_too_many_items_of_a_category_is_found():
    cap = CategoryCap(1, torch.tensor([0, 1, 2, 2, -1, -1]))  # c and d are alike
    assert audit(bucket(LISTS), cap=cap) == {"list: more than 1 items of a category": 1}
    assert audit(bucket({**LISTS, 1: ["c", "e"]}), cap=cap) == {}


def test_a_list_may_be_short_where_all_categories_are_full():
    cap = CategoryCap(1, torch.tensor([0, 0, 0, 0, 0, -1]))
    one = {user: items[:1] for user, items in LISTS.items()}
    assert audit(bucket(one), cap=cap) == {}
    assert audit(bucket({**one, 3: []}), cap=cap) == {
        f"{SHORT} although there are as many candidates": 1
    }
