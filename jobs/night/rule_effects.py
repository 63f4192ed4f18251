"""What the rules of a run do in its log: counted and said before anything is trained.

A rule does nothing where the log knows none of its ids. Most often they are written in another way.
"""

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError
from diffsasrec.files.storage import Storage
from diffsasrec.inputs.items import BOOST_KEY, boosts_at
from diffsasrec.inputs.side_tables import read_columns, read_file, table_files
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.progress import beating
from diffsasrec.ray_tasks import map_tasks
from diffsasrec.schema import canonical, like
from diffsasrec.score.rule_ids import Match, is_listed, match
from diffsasrec.sequences.buckets import bucket_name, bucket_of
from diffsasrec.times import microseconds

from .exclusions import by_bucket, user_type_of
from .table_copies import (
    EXCLUDE_KEY,
    PAIR,
    USERS_KEY,
    copies_of_run,
    exclusion_copies,
    side_tables,
)

log = logging.getLogger(__name__)

KEYS = {
    "deny": "score.deny_path",
    "allow": "score.allow_path",
    "boost": BOOST_KEY,
    "users": USERS_KEY,
    "items": "items.path",
    "previous_vocab": "vocab.previous_path",
}
USERS, ITEMS = (f"{EXCLUDE_KEY}, {column}" for column in PAIR)
MEANS_NOTHING = {  # what a rule does where the log knows none of its ids
    KEYS["deny"]: "nothing is denied",
    KEYS["allow"]: "nothing is allowed",
    KEYS["boost"]: "nothing is boosted",
    KEYS["users"]: "nobody gets a list",
    KEYS["items"]: "no item has a title or a category",
    KEYS["previous_vocab"]: "no index is kept",
    USERS: "nothing is excluded for anyone",
    ITEMS: "nothing is excluded for anyone",
}
SAMPLED = 8  # buckets whose users are looked up in the exclusions
FEW_FILES = 8  # of exclusions that a dry run reads


def check_rules(run: RunDir, vocab: pa.Table, num_buckets: int) -> dict[str, dict[str, int]]:
    """How many ids of each rule of a prepared run are known, by key: `ids` and `known`.

    The users of exclusions are counted where they belong to the first buckets.

    Raises:
        ConfigError: the rules leave nothing to recommend, or nobody to recommend to.
    """
    sampled = min(SAMPLED, num_buckets)
    items = canonical(vocab.filter(pc.greater(vocab["count"], 0))["item_id"]).combine_chunks()
    tables = copies_of_run(run.storage)
    found = catalogue_matches(tables, items)
    say_in_force(tables, run.ds)
    files = exclusion_copies(run.storage)
    if "users" in tables:
        found[USERS_KEY] = match_asked(run, tables["users"], num_buckets)
    if files:
        shared = (_users_of(run, sampled), items, num_buckets, sampled)
        found |= _sum(map_tasks(match_copy, files, *shared))
    say_matches(found, "the log")
    refuse_nobody_asked(found)
    if run.reused is None:  # else earlier weights say what can be recommended
        refuse_nothing_left(tables, items, found)
    return {key: {"ids": m.ids, "known": m.known} for key, m in found.items()}


def check_sampled_rules(
    config: Config, users: pa.Array, items: pa.Array, *, is_whole: bool, ds: str
) -> dict[str, Match]:
    """The same of a sample of the log, for a run date; `is_whole`: it is all of the log.

    Raises:
        ConfigError: the rules leave nothing to recommend, or nobody to recommend to.
    """
    tables = {name: table.read() for name, table in side_tables(config).items()}
    found = catalogue_matches(tables, items)
    say_in_force(tables, ds)
    if "users" in tables:
        found[USERS_KEY] = match(_listed_users(tables["users"]), users, named=True)
    if (path := config.score.exclude_path) is not None:
        files = table_files(path, EXCLUDE_KEY)[:FEW_FILES]
        pairs = [read_file(file, EXCLUDE_KEY, PAIR) for file in files]
        found |= _sum([match_pairs(some, users, items, 1, 1) for some in pairs])
    say_matches(found, "the log" if is_whole else "a sample of the log")
    if is_whole:
        refuse_nobody_asked(found)
        refuse_nothing_left(tables, items, found)
    return found


def catalogue_matches(tables: Mapping[str, pa.Table], items: pa.Array) -> dict[str, Match]:
    """Of each table of items, by its key; `items`: canonical ids of the log, without doubles."""
    return {
        KEYS[name]: match(_ids(table).unique(), items, named=name == "boost")
        for name, table in tables.items()
        if name != "users"
    }


def match_asked(run: RunDir, table: pa.Table, num_buckets: int) -> Match:
    """The users for whom lists are asked, all of them; only their buckets are read."""
    listed = _listed_users(table)
    parts, rest = by_bucket(listed, user_type_of(run.storage), num_buckets)
    some = [(bucket, part) for bucket, part in enumerate(parts) if len(part)]
    found = sum(map_tasks(match_bucket, some, run.storage), Match(0, 0))
    return found + match(rest, _users_of(run, 1), named=True)


def match_bucket(part: tuple[int, pa.Array], run: Storage) -> Match:
    """Which of a bucket's users, canonical, the log knows."""
    bucket, listed = part
    users = run.read_table(f"sequences/{bucket_name(bucket)}", ["user_id"])["user_id"]
    return match(listed, canonical(users).combine_chunks(), named=True)


def _listed_users(table: pa.Table) -> pa.Array:
    return canonical(table["user_id"]).combine_chunks()


def refuse_nobody_asked(found: Mapping[str, Match]) -> None:
    """Stops a run that would make no list."""
    if (m := found.get(USERS_KEY)) is not None and not m.known:
        raise ConfigError(
            f"{USERS_KEY}: the log knows none of its {m.ids} users, so that nobody would get a "
            f"list{f' ({m.example})' if m.example else ''}; correct the table or unset the key"
        )


def say_in_force(tables: Mapping[str, pa.Table], ds: str) -> None:
    """Says how many boosts hold at a run date."""
    if (boosts := tables.get("boost")) is None or not boosts.num_rows:
        return
    num = boosts_at(boosts, microseconds(ds)).num_rows
    level = logging.INFO if num else logging.WARNING
    nothing = "" if num else ", so that nothing is boosted"
    what = f"%s: %d of %d rows are in force at {ds} 00:00 UTC{nothing}"
    log.log(level, what, BOOST_KEY, num, boosts.num_rows)


def _ids(table: pa.Table) -> pa.Array:
    return canonical(table["item_id"]).combine_chunks()


def match_copy(
    path: str, users: pa.Array, items: pa.Array, num: int, sampled: int
) -> dict[str, Match]:
    return match_pairs(read_columns(path, EXCLUDE_KEY, PAIR), users, items, num, sampled)


def match_pairs(
    pairs: pa.Table, users: pa.Array, items: pa.Array, num: int, sampled: int
) -> dict[str, Match]:
    """The pairs of user and item whose user, or whose item, the log knows.

    Args:
        users: those of the first `sampled` of `num` buckets; other pairs are not counted.
    """
    listed = pairs["user_id"].combine_chunks()
    as_log = like(listed, users.type)
    is_sampled = np.asarray(as_log.is_null())  # which are users of no bucket
    is_sampled[~is_sampled] = bucket_of(as_log.drop_null(), num) < sampled
    in_buckets = listed.filter(pa.array(is_sampled))
    return {USERS: match(in_buckets, users), ITEMS: match(_ids(pairs), items)}


def _users_of(run: RunDir, num_buckets: int) -> pa.Array:
    names = [bucket_name(bucket) for bucket in range(num_buckets)]
    tables = [run.storage.read_table(f"sequences/{name}", ["user_id"]) for name in beating(names)]
    return canonical(pa.concat_tables(tables)["user_id"]).combine_chunks()


def _sum(parts: object) -> dict[str, Match]:
    total = {USERS: Match(0, 0), ITEMS: Match(0, 0)}
    for part in parts:  # type: ignore[attr-defined]
        total = {key: total[key] + part[key] for key in total}
    return total


def say_matches(found: Mapping[str, Match], where: str) -> None:
    for key, m in found.items():
        if m.known:
            log.info("%s: %d of %d ids are known to %s%s", key, m.known, m.ids, where, m.names)
        elif m.ids:
            log.warning(
                "%s: none of %d ids is known to %s, so that %s%s",
                key,
                m.ids,
                where,
                MEANS_NOTHING[key],
                f"; {m.example}" if m.example else "",
            )
        elif key not in (USERS, ITEMS):
            log.warning("%s holds no id, so that %s", key, MEANS_NOTHING[key])


def refuse_nothing_left(
    tables: Mapping[str, pa.Table], items: pa.Array, found: Mapping[str, Match]
) -> None:
    """Stops a run all of whose lists would be empty."""
    left = np.ones(len(items), bool)
    if "deny" in tables:
        left &= ~is_listed(items, _ids(tables["deny"]))
    if "allow" in tables:
        left &= is_listed(items, _ids(tables["allow"]))
    if left.any() or not len(items):
        return
    told = [
        f"{KEYS[name]} has {found[KEYS[name]].known} of them"
        + (f" ({found[KEYS[name]].example})" if found[KEYS[name]].example else "")
        for name in ("deny", "allow")
        if name in tables
    ]
    raise ConfigError(
        f"the rules leave none of the {len(items)} items of the log to recommend: "
        f"{', '.join(told)}; correct the tables or unset the keys"
    )
