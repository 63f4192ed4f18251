"""A bucket of an earlier night with new events beside the fold of all events at once."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsasrec.config.data import EventTypeConfig
from diffsasrec.event_types import EventTypes
from diffsasrec.schema import canonical_type, events_schema, list_values
from diffsasrec.sequences.fold import finish
from diffsasrec.sequences.unused import (
    OVER_CAP,
    RARE,
    REPEAT,
    count_dropped,
    fold_with_unused,
    in_order,
    merge,
    rare_rows,
    since,
    unfinish,
)
from diffsasrec.sequences.vocab import build_vocab, count_items

SPLIT = 6
TYPES = EventTypes.of({"view": EventTypeConfig(weight=0.1), "buy": EventTypeConfig()})
# user, item, time, type: few of each, so that most rows meet others
ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 9), st.integers(0, 1)),
    max_size=40,
)


def ids(numbers, id_type):
    return pa.array([n if pa.types.is_integer(id_type) else f"id{n}" for n in numbers], id_type)


def events_of(rows, *, user_type, item_type, typed):
    users, items, times, types = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = [ids(users, canonical_type(user_type)), ids(items, canonical_type(item_type))]
    columns += [pa.array(times, pa.int64()), *([pa.array(types, pa.int8())] if typed else [])]
    schema = events_schema(columns[0].type, columns[1].type, typed=typed)
    return pa.table(columns, schema=schema)


class Night:
    """What a night writes of its folded rows, and all that it leaves to the next one."""

    def __init__(self, folded, dropped, *, user_type, item_type, typed, min_item_count):
        times = list_values(folded["times"]).to_numpy()
        counts = count_items(list_values(folded["item_ids"]), times, split_time=SPLIT)
        self.vocab = build_vocab(
            counts, min_item_count=min_item_count, item_type=item_type, previous=None
        )
        self.sequences, self.holdout, self.counts = finish(
            folded,
            self.vocab,
            split_time=SPLIT,
            user_type=user_type,
            min_item_count=min_item_count,
            types=TYPES if typed else None,
        )
        self.counts += count_dropped(dropped)
        self.unused = in_order(pa.concat_tables([dropped, rare_rows(folded, self.vocab)]))

    def is_like(self, other):
        names = ("vocab", "sequences", "holdout", "unused", "counts")
        return all(getattr(self, n) == getattr(other, n) for n in names)


@pytest.mark.parametrize(
    ("user_type", "item_type"),
    [(pa.int64(), pa.string()), (pa.string(), pa.int32()), (pa.uint16(), pa.uint64())],
    ids=str,
)
@pytest.mark.parametrize("typed", [False, True], ids=["alike", "typed"])
@settings(max_examples=60, deadline=None)
@given(old=ROWS, new=ROWS, least=st.integers(1, 4), then=st.integers(1, 4), cap=st.integers(1, 9))
def test_late_double_new_and_rare_events_come_to_the_same(
    old, new, least, then, cap, typed, user_type, item_type
):
    types = {"user_type": user_type, "item_type": item_type, "typed": typed}

    def night(rows, least):
        folded = fold_with_unused(events_of(rows, **types), max_user_events=cap)
        return folded, Night(*folded, min_item_count=least, **types)

    folded, first = night(old, least)
    again, dropped = unfinish(first.sequences, first.vocab, first.unused)
    assert again == folded[0] and in_order(dropped) == in_order(folded[1])
    merged = merge(again, dropped, events_of(new, **types), max_user_events=cap)
    assert Night(*merged, min_item_count=then, **types).is_like(night(old + new, then)[1])


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, start=st.integers(0, 11), cap=st.integers(1, 9))
def test_what_is_too_old_leaves_as_if_it_had_never_been(rows, start, cap):
    types = {"user_type": pa.int64(), "item_type": pa.string(), "typed": True}
    folded = fold_with_unused(events_of(rows, **types), max_user_events=cap)
    left = fold_with_unused(
        events_of([row for row in rows if row[2] >= start], **types), max_user_events=cap
    )
    table, unused = since(*folded, start)
    assert table == left[0] and in_order(unused) == in_order(left[1])


def test_what_the_sequences_lack_says_why():
    rows = [(1, 1, 1, 0), (1, 1, 2, 0), (1, 1, 2, 0), (1, 2, 3, 0), (1, 1, 4, 0)]
    types = {"user_type": pa.int64(), "item_type": pa.int64(), "typed": False}
    folded = fold_with_unused(events_of(rows, **types), max_user_events=3)
    night = Night(*folded, min_item_count=2, **types)
    found = [(r["item_id"], r["timestamp"], r["why"], r["place"]) for r in night.unused.to_pylist()]
    assert found == [(1, 1, OVER_CAP, 0), (1, 2, REPEAT, 0), (2, 3, RARE, 1)]
    assert night.sequences["times"].to_pylist() == [[2, 4]]
