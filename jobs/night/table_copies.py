"""The tables beside the log (rules, titles, an earlier vocabulary) as copies of a run.

They are read when a run begins, copied into it, and then read only there. A digest of their rows
belongs to the identity of the run: the same table written again is the same run. The copies lie in
tables/ of the run directory as Parquet, one file for each table, and one for each file of the
exclusions. A run of an earlier version has no copies: there the tables of its config are read.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from diffsasrec.config.config import Config
from diffsasrec.config.data import ItemsConfig
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.files.storage import Storage, parquet_bytes, sha256
from diffsasrec.formats.listing import InputFile
from diffsasrec.inputs.items import BOOST_KEY, read_boosts, read_items
from diffsasrec.inputs.side_tables import (
    check_file,
    digest,
    read_bytes,
    read_columns,
    read_file,
    read_item_ids,
    table_files,
)
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.lake.stages import TABLES
from diffsasrec.progress import HEARTBEAT, beating
from diffsasrec.schema import exactly
from diffsasrec.score.rule_ids import Rules
from diffsasrec.sequences.buckets import bucket_name

log = logging.getLogger(__name__)

USERS_KEY = "score.users_path"
EXCLUDE = "exclude"
EXCLUDE_KEY = "score.exclude_path"
PAIR = {"user_id": "id", "item_id": "id"}


@dataclass(frozen=True)
class SideTable:
    """A table that is read whole."""

    key: str  # of the config
    path: str  # which it names
    read: Callable[[], pa.Table]


def side_tables(config: Config) -> dict[str, SideTable]:
    """The tables that the config names, without the exclusions, by the name of the copy."""
    found: dict[str, SideTable] = {}
    for name in ("deny", "allow"):
        key = f"score.{name}_path"
        if (path := getattr(config.score, f"{name}_path")) is not None:
            found[name] = SideTable(key, path, lambda p=path, k=key: _read_ids(p, k))  # type: ignore[misc]
    if (users := config.score.users_path) is not None:
        found["users"] = SideTable(USERS_KEY, users, lambda: _read_users(users))
    if (boosts := config.score.boost_path) is not None:
        found["boost"] = SideTable(BOOST_KEY, boosts, lambda: read_boosts(boosts))
    if (path := config.items.path) is not None:
        found["items"] = SideTable("items.path", path, lambda: _read_items(config.items))
    if (path := config.vocab.previous_path) is not None:
        found["previous_vocab"] = SideTable(
            "vocab.previous_path", path, lambda: read_previous_vocab(path)
        )
    return found


def _read_ids(path: str, key: str) -> pa.Table:
    return pa.table({"item_id": read_item_ids(path, key).unique()}).sort_by("item_id")


def _read_users(path: str) -> pa.Table:
    users = read_columns(path, USERS_KEY, {"user_id": "id"})["user_id"].combine_chunks()
    return pa.table({"user_id": users.drop_null().unique()}).sort_by("user_id")


def _read_items(settings: ItemsConfig) -> pa.Table:
    items = read_items(settings)
    assert items is not None, settings
    return items.sort_by("item_id")


def read_previous_vocab(path: str) -> pa.Table:
    """The vocabulary of vocab.previous_path: item_id and index.

    Raises:
        ConfigError: it is not there, or is none.
    """
    try:
        table = Storage.of(path).read_tables("", ["item_id", "index"])
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"vocab.previous_path={path} can't be read: {error}") from None
    if table.column_names != ["item_id", "index"]:
        raise ConfigError(f"vocab.previous_path={path} has no columns item_id and index")
    return table


def digest_tables(config: Config) -> dict[str, list[str]]:
    """What the tables of a config hold, as digests by name; of the exclusions one for each file.

    Raises:
        ConfigError: a table can't be read; its key and what is wrong with it.
    """
    found = {
        name: [sha256(parquet_bytes(table.read()))] for name, table in side_tables(config).items()
    }
    if (path := config.score.exclude_path) is not None:
        with ThreadPoolExecutor(8) as pool:
            files = table_files(path, EXCLUDE_KEY)
            found[EXCLUDE] = sorted(beating(pool.map(_checked_digest, files)))
    return found


def _checked_digest(file: InputFile) -> str:
    check_file(file, EXCLUDE_KEY, PAIR)
    return digest(file)


def copy_tables(config: Config, run: RunDir) -> None:
    """Copies the tables into the run; what an earlier attempt has copied stays.

    Raises:
        InputDataError: one is not what it was when the run began.
    """
    for name, table in side_tables(config).items():
        if name in run.tables and not run.storage.exists(copy_of(name)):
            data = parquet_bytes(table.read())
            if [sha256(data)] != run.tables[name]:
                raise _changed(f"{table.key}={table.path}")
            run.storage.create(copy_of(name), data)
    if EXCLUDE in run.tables and config.score.exclude_path is not None:
        _copy_exclusions(config.score.exclude_path, run)


def _copy_exclusions(path: str, run: RunDir) -> None:
    """Copies one file after another: together they may not fit the memory.

    Files that other jobs have added since the run began are left out.
    """
    expected, numbers = run.tables[EXCLUDE], defaultdict[str, list[int]](list)
    present = {info.path for info in run.storage.list(f"{TABLES}/{EXCLUDE}")}
    for number, found in enumerate(expected):
        if _exclusion_copy(number) not in present:
            numbers[found].append(number)
    for file in table_files(path, EXCLUDE_KEY) if numbers else []:
        HEARTBEAT.beat()
        try:
            data = read_bytes(file)
        except FileNotFoundError:
            continue
        for number in numbers.pop(sha256(data), []):  # several of the same bytes
            pairs = read_file(file, EXCLUDE_KEY, PAIR, data)
            run.storage.create(_exclusion_copy(number), parquet_bytes(pairs))
    if numbers:
        raise _changed(f"{EXCLUDE_KEY}={path}")


def _exclusion_copy(number: int) -> str:
    return f"{TABLES}/{EXCLUDE}/{bucket_name(number)}"


def _changed(where: str) -> InputDataError:
    return InputDataError(
        f"{where} has changed since the run began; run the same command again, which reads it anew"
    )


def copy_of(name: str) -> str:
    return f"{TABLES}/{name}.parquet"


def copies_of_run(run: Storage) -> dict[str, pa.Table]:
    """The copies of a run by name, without the exclusions."""
    names = [info.path.removeprefix(f"{TABLES}/") for info in run.list(TABLES)]
    return {
        name.removesuffix(".parquet"): run.read_table(f"{TABLES}/{name}")
        for name in names
        if "/" not in name
    }


def exclusion_copies(run: Storage) -> list[str]:
    """The files of pairs of a run."""
    return [run.url(info.path) for info in run.list(f"{TABLES}/{EXCLUDE}")]


def _path_in(run: Storage, name: str, configured: str | None) -> str | None:
    """Where the table of a run is read: its copy, or the configured path in runs without copies."""
    if configured is None or not run.exists(copy_of(name)):
        return configured
    return run.url(copy_of(name))


def items_of_run(config: Config, run: Storage) -> ItemsConfig:
    """How the table of items of a run is read."""
    items = config.items
    path = _path_in(run, "items", items.path)
    if path == items.path:
        return items
    return ItemsConfig(
        path=path,
        title_column=items.title_column and "title",
        category_column=items.category_column and "category",
    )


def rules_of_run(config: Config, run: Storage) -> Rules:
    """Which items may be recommended, and which are boosted, by the tables of a run."""
    return Rules(
        deny_path=_path_in(run, "deny", config.score.deny_path),
        allow_path=_path_in(run, "allow", config.score.allow_path),
        max_per_category=config.score.max_per_category,
        items=items_of_run(config, run),
        boost_path=_path_in(run, "boost", config.score.boost_path),
    )


def previous_vocab_of_run(config: Config, run: Storage, item_type: pa.DataType) -> pa.Table | None:
    """The vocabulary whose items keep their indices, its ids in the type of this log's.

    Raises:
        ConfigError: it has ids that this type does not have.
    """
    path = config.vocab.previous_path
    if path is None:
        return None
    copy = copy_of("previous_vocab")
    table = run.read_table(copy) if run.exists(copy) else read_previous_vocab(path)
    ids = table["item_id"]
    if (converted := exactly(ids, item_type)) is None:
        raise ConfigError(
            f"vocab.previous_path={path}: item_id is {ids.type}, in the log it is {item_type}, "
            "and not all ids fit that; unset it or convert them"
        )
    if ids.type != item_type:
        log.info(
            "prepare: the %d ids of vocab.previous_path were converted from %s to %s",
            *(len(ids), ids.type, item_type),
        )
    return table.set_column(0, "item_id", converted)
