"""What must not be in a list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffsasrec.config.data import ItemsConfig
from diffsasrec.config.training import ModelConfig
from diffsasrec.errors import ConfigError
from diffsasrec.model.checkpoint import Checkpoint
from diffsasrec.model.transformer import SequenceModel
from diffsasrec.schema import like
from diffsasrec.score.rule_ids import Rules
from diffsasrec.score.rules import (
    allowed_items,
    boost_at,
    boosts_of,
    category_cap,
    excluded_of,
    with_excluded,
)
from diffsasrec.times import microseconds


def vocabulary(ids: Sequence[Any], item_type: pa.DataType, counts: Sequence[int]) -> pa.Table:
    columns = {
        "item_id": pa.array(ids, item_type),
        "index": pa.array(range(len(ids)), pa.int32()),
        "count": pa.array(counts, pa.int64()),
    }
    return pa.table(columns)


VOCAB = vocabulary([*"abcdefgh"], pa.string(), [9] * 8)


def write_rules(path: Path, ids: list[Any]) -> str:
    if path.suffix == ".csv":
        path.write_text("\n".join(["note,item_id", *(f"n,{item}" for item in ids)]) + "\n")
    else:
        pq.write_table(pa.table({"item_id": ids, "note": ["n"] * len(ids)}), path)
    return str(path)


def allowed(vocab: pa.Table, deny: str | None = None, allow: str | None = None) -> list[Any]:
    model = SequenceModel(ModelConfig(hidden_size=4, num_blocks=1), vocab.num_rows)
    checkpoint = Checkpoint(model=model, vocab=vocab, trained_before=0, model_version="v1")
    mask = allowed_items(checkpoint, Rules(deny_path=deny, allow_path=allow))
    return vocab.filter(pa.array(mask))["item_id"].to_pylist()


def test_items_that_were_never_trained_on_are_not_allowed():
    assert allowed(vocabulary(["a", "b", "c"], pa.string(), [1, 0, 2])) == ["a", "c"]


@pytest.mark.parametrize("name", ["rules.parquet", "rules.csv"])
def test_deny_takes_out_and_allow_leaves_in_also_together(tmp_path, name):
    one = write_rules(tmp_path / f"one-{name}", ["b", "d", "unheard of"])
    two = write_rules(tmp_path / f"two-{name}", ["a", "b", "unheard of"])
    assert allowed(VOCAB, deny=one) == ["a", "c", "e", "f", "g", "h"]
    assert allowed(VOCAB, allow=two) == ["a", "b"]
    assert allowed(VOCAB, deny=one, allow=two) == ["a"]


def test_leading_zeros_in_a_csv_are_part_of_a_string_id(tmp_path):
    vocab = vocabulary(["7", "007", "8"], pa.string(), [1, 1, 1])
    assert allowed(vocab, deny=write_rules(tmp_path / "deny.csv", ["007"])) == ["7", "8"]
    assert allowed(vocab, allow=write_rules(tmp_path / "allow.csv", ["7"])) == ["7"]


@pytest.mark.parametrize("item_type", [pa.int32(), pa.int64(), pa.uint64()], ids=str)
def test_integer_ids_are_found_in_a_csv_by_their_one_spelling(tmp_path, item_type):
    vocab = vocabulary([7, 8, 77], item_type, [1, 1, 1])
    assert allowed(vocab, deny=write_rules(tmp_path / "deny.csv", ["7", "008"])) == [8, 77]


@pytest.mark.parametrize("item_type", [pa.int32(), pa.uint64()], ids=str)
def test_integers_of_another_width_are_the_same_ids(tmp_path, item_type):
    vocab = vocabulary([7, 8], item_type, [1, 1])
    path = write_rules(tmp_path / "deny.parquet", pa.array([8, None], pa.int16()))
    assert allowed(vocab, deny=path) == [7]


@pytest.mark.parametrize("key", ["deny", "allow"])
@pytest.mark.parametrize("name", ["rules.parquet", "rules.csv"])
def test_a_rule_table_that_is_missing_or_has_no_item_id_names_its_key(tmp_path, name, key):
    path = tmp_path / name
    with pytest.raises(ConfigError, match=f"score.{key}_path=.*{name} can't be read"):
        allowed(VOCAB, **{key: str(path)})
    table = pa.table({"item": ["a"]})
    path.write_text("item\na\n") if path.suffix == ".csv" else pq.write_table(table, path)
    with pytest.raises(ConfigError, match=f"score.{key}_path=.*{name} has no column item_id"):
        allowed(VOCAB, **{key: str(path)})


def test_rules_that_are_no_ids_are_refused(tmp_path):
    path = write_rules(tmp_path / "deny.parquet", [1.0, 2.0])
    with pytest.raises(ConfigError, match=r"score\.deny_path=.* item_id is double"):
        allowed(VOCAB, deny=path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "deny.parquet").write_text("item_id\na\n")
    with pytest.raises(ConfigError, match=r"score\.deny_path=.* can't be read"):
        allowed(VOCAB, deny=str(tmp_path / "deny.parquet"))


# --- categories ---


def test_items_without_a_category_are_not_capped(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,kind\na,x\nb,y\nc,x\nd,\n")
    items = ItemsConfig(path=str(tmp_path / "items.csv"), category_column="kind")
    cap = category_cap(VOCAB, Rules(max_per_category=2, items=items))
    assert cap is not None and cap.most == 2
    assert cap.category_V.tolist() == [0, 1, 0, -1, -1, -1, -1, -1]


def test_without_a_limit_there_is_no_cap():
    assert category_cap(VOCAB, Rules()) is None


def test_a_cap_without_categories_is_refused():
    with pytest.raises(ConfigError, match="needs a table of items"):
        category_cap(VOCAB, Rules(max_per_category=2, items=ItemsConfig()))


# --- pairs of user and item ---


@pytest.mark.parametrize(
    ("ids", "id_type", "expected"),
    [
        (["7", "007", "-7", "x", "", "0", None], pa.int64(), [7, None, -7, None, None, 0, None]),
        (["7", "-7", "99999999999999999999"], pa.uint64(), [7, None, None]),
        # ids that are hashes have 19 digits or 20
        ([str(2**63 - 1), str(2**63), str(-(2**63))], pa.int64(), [2**63 - 1, None, -(2**63)]),
        ([str(-(2**63) - 1), "-0", "+1", "1e3"], pa.int64(), [None] * 4),
        ([str(2**64 - 1), str(2**64)], pa.uint64(), [2**64 - 1, None]),
        ([7, -7], pa.string(), ["7", "-7"]),
        (["7"], pa.string(), ["7"]),
    ],
)
def test_ids_of_another_type_are_found_by_their_one_spelling(ids, id_type, expected):
    assert like(pa.array(ids), id_type).to_pylist() == expected


def test_pairs_are_brought_to_their_users_in_any_order():
    sequences = pa.table({"user_id": pa.array([1, 3, 5], pa.int32())})
    pairs = pa.table({"user_id": [5, 1, 9, 5, 1, 5], "item_id": [*"cbaahz"]})
    table = with_excluded(sequences, pairs, VOCAB)
    assert table["excluded"].to_pylist() == [[1, 7], [], [0, 2]]
    excluded = excluded_of(table)
    assert (excluded.items.tolist(), excluded.offsets.tolist()) == ([1, 7, 0, 2], [0, 2, 2, 4])


def test_without_the_column_nothing_is_excluded():
    assert excluded_of(pa.table({"user_id": [1, 3]})).offsets.tolist() == [0, 0, 0]


# --- boosts ---


def boosts_held(moment: str, path: Path, vocab: pa.Table) -> list[float] | None:
    """What is added to the logits of the vocabulary's items; None: nothing."""
    boost = boost_at(microseconds(moment), boosts_of(Rules(boost_path=str(path))), vocab)
    return None if boost is None else boost.tolist()


def test_boosts_are_those_of_the_vocabulary_that_hold_at_the_moment(tmp_path):
    rows = ["b,0.5,", "h,-2,2024-01-01", "unheard of,3,", "c,0,"]
    (tmp_path / "boosts.csv").write_text("\n".join(["item_id,boost,until", *rows]))
    path, day = tmp_path / "boosts.csv", "2024-01-01"
    assert boosts_held("2023-12-31", path, VOCAB) == [0, 0.5, 0, 0, 0, 0, 0, -2]
    assert boosts_held(day, path, VOCAB) == [0, 0.5, 0, 0, 0, 0, 0, 0]
    numbers = vocabulary([7, 8], pa.int32(), [1, 1])
    assert boosts_held(day, path, numbers) is None  # so that nothing is computed
    path.write_text("item_id,boost\n8,1\n07,1\n")
    assert boosts_held(day, path, numbers) == [0, 1]


def test_without_a_table_nothing_is_boosted():
    assert boosts_of(Rules()) is None and boost_at(0, None, VOCAB) is None
