"""What every row of the lists must be, recomputed before anything is published."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.schema import list_offsets, list_values
from diffsasrec.sequences.vocab import index_items

WRONG_USERS = "users: not exactly the expected ones, once and in order"


def audit_bucket(
    recommendations: pa.Table,
    expected: pa.Table,
    *,
    vocab: pa.Table,
    allowed: npt.NDArray[np.bool_],
    cap: CategoryCap | None = None,
    k: int,
    filter_seen: bool,
    by_score: bool,
    model_version: str,
) -> Counter[str]:
    """Counts the rows of a bucket that break a rule, by rule; all zero (absent) if none does.

    Args:
        recommendations: what was written, recommendations_schema.
        expected: of the bucket's users: user_id, items (indices of `vocab`, all that are seen),
            excluded (likewise: what the rules forbid for the user), history_len and source.
        allowed: what may be recommended at all, [V].
        cap: limit on the items of one category in a list.
        by_score: whether lists are ordered by score.
        model_version: of the checkpoint that must have made all of them.
    """
    if recommendations["user_id"].combine_chunks() != expected["user_id"].combine_chunks():
        difference = abs(recommendations.num_rows - expected.num_rows)
        return Counter({WRONG_USERS: max(difference, 1)})
    lists = _Lists.of(recommendations, vocab, len(allowed))
    seen, excluded = (_pairs(expected[name], len(allowed)) for name in ("items", "excluded"))
    filtered = np.union1d(seen, excluded) if filter_seen else excluded
    forbidden = seen if filter_seen else seen[:0]
    broken = Counter(_broken_items(lists, forbidden, excluded, allowed, by_score))
    wanted_lengths = _wanted_lengths(filtered, allowed, cap, k=k, num_users=len(lists.lengths))
    wrong_length = lists.lengths != wanted_lengths
    if cap is not None:
        broken[f"list: more than {cap.most} items of a category"] = _num_over(lists, cap)
    broken[f"list: not {k} items although there are as many candidates"] = int(wrong_length.sum())
    broken.update(_wrong_columns(recommendations, expected, model_version))
    return +broken


@dataclass(frozen=True)
class _Lists:
    """All lists of a bucket as flat arrays, [entries] but for `lengths`, [users]."""

    lengths: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]  # the place of the user
    place: npt.NDArray[np.int64]  # in the list, from 0
    items: npt.NDArray[np.int64]  # -1: not in the vocabulary
    scores: npt.NDArray[np.float64]  # NaN if there is none
    ranks: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.int64]  # user and item in one number

    @classmethod
    def of(cls, recommendations: pa.Table, vocab: pa.Table, num_items: int) -> "_Lists":
        offsets = list_offsets(recommendations["items"])
        structs = list_values(recommendations["items"])
        lengths = np.diff(offsets)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        items = index_items(structs.field("item_id"), vocab).astype(np.int64)
        return cls(
            lengths=lengths,
            owner=owner,
            place=np.arange(len(owner)) - np.repeat(offsets[:-1], lengths),
            items=items,
            scores=structs.field("score").to_numpy(zero_copy_only=False).astype(np.float64),
            ranks=structs.field("rank").to_numpy(zero_copy_only=False).astype(np.float64),
            # an unknown item must not look like an item of the user before
            pairs=np.where(items >= 0, owner * num_items + items, -1 - np.arange(len(items))),
        )


def _pairs(lists: pa.ChunkedArray, num_items: int) -> npt.NDArray[np.int64]:
    """The distinct pairs of user and item, each in one number."""
    offsets, items = list_offsets(lists), list_values(lists).to_numpy().astype(np.int64)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.unique(owner * num_items + items)


def _wrong_columns(
    recommendations: pa.Table, expected: pa.Table, model_version: str
) -> dict[str, int]:
    """How many rows have another value in a column than expected."""
    wanted = {name: expected[name] for name in ("history_len", "source")}
    wanted["model_version"] = pa.scalar(model_version)
    wrong = {}
    for column, values in wanted.items():
        same = pc.equal(recommendations[column], values).fill_null(False)
        wrong[f"{column}: not what it must be"] = len(same) - (pc.sum(same).as_py() or 0)
    return wrong


def _num_over(lists: _Lists, cap: CategoryCap) -> int:
    """How many lists have too many items of a category."""
    known = lists.items >= 0
    category = cap.category_V.numpy()[lists.items[known]]
    owner, category = lists.owner[known][category >= 0], category[category >= 0]
    width = int(category.max(initial=0)) + 1
    pairs, counts = np.unique(owner * width + category, return_counts=True)
    return len(np.unique(pairs[counts > cap.most] // width))


def _broken_items(
    lists: _Lists,
    seen: npt.NDArray[np.int64],
    excluded: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
    by_score: bool,
) -> dict[str, int]:
    """How many lists have an entry that breaks a rule."""
    known = lists.items >= 0
    same_list = np.r_[False, lists.owner[1:] == lists.owner[:-1]][: len(lists.owner)]
    finite = np.isfinite(lists.scores)
    above = np.r_[np.inf, lists.scores[:-1]][: len(lists.owner)]
    rises = same_list & finite & (lists.scores > above)
    twice = np.ones(len(lists.pairs), bool)
    twice[np.unique(lists.pairs, return_index=True)[1]] = False
    rules = {
        "item: not in the vocabulary": ~known,
        "item: denied, not allowed or not trained on": known
        & ~allowed[np.where(known, lists.items, 0)],
        "item: seen by the user": known & np.isin(lists.pairs, seen),
        "item: excluded for the user, or shown lately": known & np.isin(lists.pairs, excluded),
        "score: not finite": ~finite,
        "score: higher than that of the item above": by_score & rises,
        "rank: not 1, 2, 3, ...": lists.ranks != lists.place + 1,
        "list: an item twice": twice,
    }
    return {rule: len(np.unique(lists.owner[broken])) for rule, broken in rules.items()}


def _wanted_lengths(
    filtered: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
    cap: CategoryCap | None,
    *,
    k: int,
    num_users: int,
) -> npt.NDArray[np.int64]:
    """K, or as many items as are left to the user, [users]."""
    taken = filtered[allowed[filtered % len(allowed)]]
    if cap is not None:
        users_X, items_X = (torch.from_numpy(x) for x in divmod(taken, len(allowed)))
        fitting = cap.num_fitting(users_X, items_X, torch.tensor(allowed), num_users)
        return np.minimum(k, fitting.numpy())
    num_taken = np.bincount(taken // len(allowed), minlength=num_users)
    return np.minimum(k, allowed.sum() - num_taken)
