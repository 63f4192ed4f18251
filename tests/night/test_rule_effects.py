"""What rules mean in a log: 30 items 0..29 and 60 users 0..59, integers."""

import logging

import pyarrow as pa
import pytest

from diffsasrec.config.config import Config
from diffsasrec.errors import ConfigError, RefusedError
from diffsasrec.files.storage import Storage
from diffsasrec.lake.run_dir import RunDir
from diffsasrec.schema import like
from diffsasrec.score.rule_ids import Match, match
from jobs.night.rule_effects import (
    ITEMS,
    USERS,
    check_sampled_rules,
    match_pairs,
    refuse_nothing_left,
    say_matches,
)
from jobs.publish import refuse_empty

LOG_USERS, LOG_ITEMS = pa.array(range(60)), pa.array(range(30))


def checked(tmp_path, *, is_whole: bool = True, **texts: str) -> dict[str, Match]:
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    score = {f"{name}_path": str(tmp_path / f"{name}.csv") for name in texts}
    values = {"lake": str(tmp_path), "events": {"path": "log"}, "score": score}
    config = Config.model_validate(values)
    return check_sampled_rules(config, LOG_USERS, LOG_ITEMS, is_whole=is_whole, ds="2024-03-01")


def ids(*values: str) -> str:
    return "\n".join(["item_id", *values, ""])


def test_it_is_counted_how_many_ids_are_known(tmp_path):
    found = checked(tmp_path, deny=ids(" 1", "2 ", "003", "4.0", "1e0", "5"))
    assert found == {"score.deny_path": Match(ids=6, known=1)}


def test_a_rule_that_knows_no_id_is_a_warning_with_both_spellings(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        checked(tmp_path, deny=ids("SKU-1"), exclude="user_id,item_id\n07,1\n08,2\n")
    said = caplog.text
    assert "score.deny_path: none of 1 ids is known to the log, so that nothing is denied" in said
    assert "its ids look like 'SKU-1', those of the log like '0'" in said
    assert "score.exclude_path, user_id: none of 2 ids is known to the log" in said
    assert "what is '07' there is '7' in the log" in said
    assert "exclude_path, item_id" not in said


def test_boosts_of_unknown_items_are_counted_and_named(tmp_path, caplog):
    rows = ["item_id,boost,until", "1,1,", "07,1,", "x,1,2024-03-01", ""]
    with caplog.at_level(logging.INFO):
        found = checked(tmp_path, boost="\n".join(rows))
    assert found == {"score.boost_path": Match(3, 1, unknown=("'07'", "'x'"))}
    assert "score.boost_path: 1 of 3 ids are known to the log; unknown: '07', 'x'" in caplog.text
    assert "score.boost_path: 2 of 3 rows are in force at 2024-03-01 00:00 UTC" in caplog.text


def test_boosts_of_which_none_holds_are_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        checked(tmp_path, boost="item_id,boost,from\n1,1,2024-03-02\n")
    assert "0 of 1 rows are in force at 2024-03-01 00:00 UTC, so that nothing is boo" in caplog.text


def test_users_who_are_asked_for_and_unknown_are_counted_and_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = checked(tmp_path, users="user_id\n1\n2\n2\n07\n")
    assert found == {"score.users_path": Match(3, 2, unknown=("'07'",))}
    assert "score.users_path: 2 of 3 ids are known to the log; unknown: '07'" in caplog.text


@pytest.mark.parametrize("text", ["user_id\n", "user_id\n07\n"])
def test_asking_only_for_users_whom_the_log_does_not_know_is_refused(tmp_path, text, caplog):
    with pytest.raises(ConfigError, match=r"score\.users_path: the log knows none of its \d users"):
        checked(tmp_path, users=text)
    checked(tmp_path, users=text, is_whole=False)
    assert "so that nobody gets a list" in caplog.text


def test_of_many_unknown_ids_some_are_named():
    found = match(pa.array([*"abcdefg", "3"]), LOG_ITEMS, named=True)
    assert found.names == "; unknown: 'a', 'b', 'c', 'd', 'e' and 2 more"
    assert (found + found).unknown == found.unknown and (found + found).ids == 16


def test_a_table_without_a_row_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        checked(tmp_path, deny=ids())
    assert "score.deny_path holds no id, so that nothing is denied" in caplog.text


def test_denying_the_whole_catalogue_is_refused(tmp_path):
    everything = ids(*map(str, range(30)))
    with pytest.raises(ConfigError, match=r"none of the 30 items .*: score.deny_path has 30 of"):
        checked(tmp_path, deny=everything)
    with pytest.raises(ConfigError, match=r"deny_path has 1 of them, score.allow_path has 1 of"):
        checked(tmp_path, deny=ids("1"), allow=ids("1"))
    checked(tmp_path, deny=everything, is_whole=False)  # what else the log has is not known


def test_allowing_ids_of_another_spelling_alone_is_refused(tmp_path):
    padded = ids(*(f"{n:08}" for n in range(30)))
    with pytest.raises(
        ConfigError, match=r"allow_path has 0 of them \(what is '00000000' there is '0' in the log"
    ):
        checked(tmp_path, allow=padded)


def test_of_exclusions_the_users_of_some_buckets_are_counted():
    pairs = pa.table({"user_id": ["1", "x", "99", "2"], "item_id": ["1", "1", "77", "x"]})
    found = match_pairs(pairs, LOG_USERS, LOG_ITEMS, 1, 1)
    assert (found[USERS], found[ITEMS]) == (Match(4, 2), Match(4, 2))
    nobody = match_pairs(pairs, LOG_USERS, LOG_ITEMS, 1, 0)
    assert nobody[USERS].ids == 1  # x is a user of no bucket


def test_a_log_without_items_is_not_refused_for_its_rules():
    refuse_nothing_left({}, pa.array([], pa.int64()), {})
    say_matches({}, "the log")


def test_matches_of_several_files_add_up():
    assert match(pa.array(["07"]), LOG_ITEMS) + Match(3, 2) == Match(4, 2)
    assert (Match(1, 0, "as a") + Match(1, 0, "as b")).example == "as a"


def test_the_largest_integers_of_a_csv_are_ids_too():
    texts = pa.array(["9223372036854775807", "9223372036854775808", "-9223372036854775808"])
    assert like(texts, pa.int64()).to_pylist() == [2**63 - 1, None, -(2**63)]
    assert like(texts, pa.uint64()).to_pylist() == [2**63 - 1, 2**63, None]


def test_lists_that_are_all_empty_are_refused_by_the_audit():
    run = RunDir(Storage.of("lake"), ds="2024-03-01", run_id="r", identity="i", attempt="a")
    refuse_empty(60, 1, run)
    refuse_empty(0, 0, run)
    with pytest.raises(RefusedError, match="all 60 of them are empty"):
        refuse_empty(60, 0, run)
