"""Some users' histories beside their lists: always the same ones of a run."""

import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.errors import DiffsasrecError
from diffsasrec.event_types import EventTypes
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.items import items_of, read_items
from diffsasrec.sequences.buckets import bucket_name

from ..night.table_copies import items_of_run
from .facts import Night, ShownItem, User

HISTORY_QUANTILES = (0.1, 0.5, 0.9)  # of the users of a bucket, by the length of their history
EVENTS_SHOWN = 8  # events of a history that are shown
FALLBACK_BUCKETS = 8  # in which a user with a fallback list is looked for

Titles = Callable[[list[str]], list[str | None]]


def read_users(run: Storage, night: Night, config: Config | None) -> tuple[tuple[User, ...], str]:
    """A user with a short, a middling and a long history, one with a fallback list; and why
    there are no titles, where a table of items is configured."""
    if not night.num_lists:
        return (), ""
    titles, why = _titles(run, config)
    vocab = run.read_tables("vocab", ["item_id"])["item_id"].combine_chunks()
    lists = run.read_table(f"recommendations/{bucket_name(0)}")
    chosen = [(0, row) for row in chosen_rows(lists)]
    if night.counts("score").get("popular"):
        chosen += _fallback(run, night.records["prepare"]["num_buckets"])
    return tuple(_user(run, bucket, row, vocab, titles) for bucket, row in chosen), why


def chosen_rows(lists: pa.Table) -> list[int]:
    """The rows of the users at HISTORY_QUANTILES of those whose list is no fallback."""
    is_own = np.flatnonzero(lists["source"].to_numpy() != "popular")
    lengths = lists["history_len"].to_numpy()[is_own]
    order = is_own[np.argsort(lengths, kind="stable")]
    places = [round(place * (len(order) - 1)) for place in HISTORY_QUANTILES] if len(order) else []
    return [int(order[place]) for place in dict.fromkeys(places)]


def _fallback(run: Storage, num_buckets: int) -> list[tuple[int, int]]:
    """Bucket and row of the first user with a fallback list; [] where none is near."""
    for bucket in range(min(num_buckets, FALLBACK_BUCKETS)):
        lists = run.read_table(f"recommendations/{bucket_name(bucket)}", ["source"])
        row = pc.index(lists["source"], "popular").as_py()
        if row >= 0:
            return [(bucket, row)]
    return []


def _titles(run: Storage, config: Config | None) -> tuple[Titles, str]:
    why = ""
    try:
        items = None if config is None else read_items(items_of_run(config, run))
    except DiffsasrecError as error:  # the table has gone since: the rest of the page stands
        items, why = None, str(error)

    def titles(ids: list[str]) -> list[str | None]:
        if items is None:
            return [None] * len(ids)
        found: list[str | None] = items_of(items, pa.array(ids, pa.string()), "title").to_pylist()
        return found

    return titles, why


def _user(run: Storage, bucket: int, row: int, vocab: pa.Array, titles: Titles) -> User:
    shown = run.read_table(f"recommendations/{bucket_name(bucket)}").slice(row, 1).to_pylist()[0]
    sequences = run.read_table(f"sequences/{bucket_name(bucket)}")
    types = EventTypes.in_schema(sequences.schema.metadata)
    user_id = pa.scalar(shown["user_id"], sequences["user_id"].type)
    at = pc.index(sequences["user_id"], user_id).as_py()
    history = sequences.slice(at, 1).to_pylist()[0]
    ids = [str(vocab[index].as_py()) for index in history["items"]]
    days = [f"{datetime.fromtimestamp(time / 1e6, UTC):%d %b %Y}" for time in history["times"]]
    if types is not None:
        days = [f"{day}, {types.names[c]}" for day, c in zip(days, history["types"], strict=True)]
    touched = set(ids)
    listed = [str(item["item_id"]) for item in shown["items"]]
    notes = [
        _chance(item["score"]) + (", had before" if str(item["item_id"]) in touched else "")
        for item in shown["items"]
    ]
    return User(
        user_id=str(shown["user_id"]),
        source=shown["source"],
        history_len=shown["history_len"],
        history=_items(ids[-EVENTS_SHOWN:], days[-EVENTS_SHOWN:], titles),
        items=_items(listed, notes, titles),
    )


def _chance(score: float) -> str:
    return f"{math.exp(score) * 100:.2f} %"


def _items(ids: list[str], notes: list[str], titles: Titles) -> tuple[ShownItem, ...]:
    return tuple(
        ShownItem(item_id, title, note)
        for item_id, title, note in zip(ids, titles(ids), notes, strict=True)
    )
