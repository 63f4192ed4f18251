"""What must not be in a list, and what is boosted: rules over items, and over pairs."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from diffsasrec.errors import ConfigError
from diffsasrec.inputs.items import boosts_at, items_of, read_boosts, read_items
from diffsasrec.inputs.side_tables import read_item_ids
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.retrieve.category_cap import CategoryCap
from diffsasrec.schema import canonical, like, list_offsets, list_values
from diffsasrec.score.rule_ids import Rules, is_listed
from diffsasrec.sequences.histories import UserItems
from diffsasrec.sequences.vocab import index_items


def allowed_items(checkpoint: Checkpoint, rules: Rules) -> npt.NDArray[np.bool_]:
    """What may be recommended: trained on, not denied, allowed, [V]."""
    mask = checkpoint.candidates()
    ids = canonical(checkpoint.vocab["item_id"]).combine_chunks()
    if rules.deny_path is not None:
        mask &= ~is_listed(ids, read_item_ids(rules.deny_path, "score.deny_path"))
    if rules.allow_path is not None:
        mask &= is_listed(ids, read_item_ids(rules.allow_path, "score.allow_path"))
    return mask


def boosts_of(rules: Rules) -> pa.Table | None:
    """The table of boosts, `read_boosts`; None if there is none."""
    return None if rules.boost_path is None else read_boosts(rules.boost_path)


def boost_at(
    moment: int, boosts: pa.Table | None, vocab: pa.Table
) -> npt.NDArray[np.float32] | None:
    """What is added to the logit of each item at a time (microseconds), [V]; None: to none.

    Items that the vocabulary does not have are ignored.
    """
    if boosts is None:
        return None
    held = boosts_at(boosts, moment)
    ids = canonical(vocab["item_id"])
    index = index_items(like(held["item_id"].combine_chunks(), ids.type), vocab)
    boost = np.zeros(vocab.num_rows, np.float32)
    boost[index[index >= 0]] = held["boost"].to_numpy()[index >= 0]
    return boost if boost.any() else None


def category_cap(vocab: pa.Table, rules: Rules) -> CategoryCap | None:
    """The cap on the items of a category; None if there is none."""
    if rules.max_per_category is None:
        return None
    items = None if rules.items is None else read_items(rules.items)
    if items is None:
        raise ConfigError("max_per_category needs a table of items, which has their categories")
    names = items_of(items, vocab["item_id"].combine_chunks(), "category")
    codes = names.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return CategoryCap(rules.max_per_category, torch.from_numpy(codes.astype(np.int64)))


def with_excluded(sequences: pa.Table, pairs: pa.Table, vocab: pa.Table) -> pa.Table:
    """`sequences` with a column `excluded`: what users must not be shown, as indices of `vocab`.

    Args:
        pairs: user_id and item_id, canonical, in any order; unknown users and items are ignored.
    """
    users = canonical(sequences["user_id"]).combine_chunks()
    listed = like(pairs["user_id"].combine_chunks(), users.type)
    place = pc.index_in(listed, value_set=users).fill_null(-1).to_numpy(zero_copy_only=False)
    ids = canonical(vocab["item_id"])
    items = index_items(like(pairs["item_id"].combine_chunks(), ids.type), vocab)
    known = (place >= 0) & (items >= 0)
    order = np.lexsort((items[known], place[known]))
    counts = np.bincount(place[known], minlength=len(users))
    offsets = pa.array(np.r_[0, np.cumsum(counts)].astype(np.int32))
    excluded = pa.ListArray.from_arrays(offsets, pa.array(items[known][order], pa.int32()))
    return sequences.append_column("excluded", excluded)


def excluded_of(sequences: pa.Table) -> UserItems:
    """The column `excluded` of all rows; nothing if there is none."""
    if "excluded" not in sequences.column_names:
        return UserItems.nothing(sequences.num_rows)
    items = list_values(sequences["excluded"]).to_numpy().astype(np.int64)
    return UserItems(items, list_offsets(sequences["excluded"]))
