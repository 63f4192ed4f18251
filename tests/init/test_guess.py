"""The configuration that a log gets: small files of every kind, and what is written for them."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from diffsasrec.config.load import load_config
from diffsasrec.errors import ConfigError, InputDataError
from diffsasrec.formats.listing import InputFile
from jobs.init.__main__ import last_lines, refuse_overwriting, written
from jobs.init.arguments import parse_init
from jobs.init.choosing import choose, partition_of
from jobs.init.facts import count_repeats, in_condition
from jobs.init.guess import Entry, event_entries, log_of
from jobs.init.lists import other_entries
from jobs.init.newest import run_date
from jobs.init.questions import undecided
from jobs.init.writing import configuration, in_yaml

START = 1704067200  # 2024-01-01


def rows(number: int = 300) -> list[tuple[int, int, int]]:
    """Users, items and seconds of 100 days: each user comes back to no item."""
    return [(n % 20, n // 20 + 100 * (n % 7), START + 28800 * n) for n in range(number)]


def look(path: Path) -> dict[str, Any]:
    """The keys that are set, and those that are proposed."""
    log = choose(str(path)).log
    entries = [*event_entries(log), *other_entries(log)]
    return {e.key if e.is_set else f"# {e.key}": e.value for e in entries}


def csv(directory: Path, text: str, name: str = "log.csv", encoding: str = "utf-8") -> Path:
    (directory / name).write_bytes(text.encode(encoding))
    return directory / name


def test_movielens_1m_has_two_colons_and_no_names(tmp_path: Path):
    text = "".join(f"{u}::{i}::{1 + n % 5}::{t}\n" for n, (u, i, t) in enumerate(rows()))
    found = look(csv(tmp_path, text, "ratings.dat"))
    assert found["events.separator"] == "::"
    assert found["events.columns"] == ["column_1", "column_2", "column_3", "column_4"]
    assert (found["events.user_column"], found["events.time_unit"]) == ("column_1", "s")
    assert found["events.id_type"] == "int64"


def test_a_shop_has_returns_customers_without_a_number_and_months_first(tmp_path: Path):
    head = "InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID\n"
    lines = [
        f"{536000 + n},{i}A,{-1 if n % 10 == 0 else 2},12/{1 + n // 12}/10 8:{n % 60:02},"
        + ("" if n % 4 == 0 else f"{17850 + u}.0")
        for n, (u, i, _) in enumerate(rows())
    ]
    found = look(csv(tmp_path, head + "\n".join(lines)))
    assert found["events.time_format"] == "%m/%d/%y %H:%M"
    assert found["events.where"] == ["CustomerID is not null", "Quantity > 0"]
    assert "events.max_bad_fraction" not in found
    assert "events.id_type" not in found


def test_a_clickstream_has_kinds_of_events_and_milliseconds(tmp_path: Path):
    kinds = ["view"] * 8 + ["addtocart", "transaction"]
    lines = [f"{t}000,{u},{kinds[n % 10]},{i}," for n, (u, i, t) in enumerate(rows())]
    path = csv(tmp_path, "timestamp,visitorid,event,itemid,transactionid\n" + "\n".join(lines))
    found = look(path)
    assert (found["events.user_column"], found["events.item_column"]) == ("visitorid", "itemid")
    assert found["events.time_unit"] == "ms"
    (question,) = undecided(choose(str(path)).log)
    assert "view 240, addtocart 30, transaction 30" in question
    assert "a guess" in question
    assert found["events.type_column"] == "event"
    assert found["events.types"] == {
        "transaction": {"weight": 1.0, "target": True, "seen": True},
        "addtocart": {"weight": 0.5, "target": False, "seen": False},
        "view": {"weight": 0.1, "target": False, "seen": False},
    }
    types = load_config(written(choose(str(path)), str(path), "lake")).events.types
    assert types["addtocart"].weight == 0.5 and not types["view"].target


def test_types_are_proposed_where_the_target_is_rare_and_absent_where_there_is_none(tmp_path: Path):
    head = "timestamp,visitorid,event,itemid\n"
    for kinds, key in ((["view"] * 299 + ["buy"], "# events.types"), (["view", "click"] * 150, "")):
        lines = [f"{t},{u},{kind},{i}" for kind, (u, i, t) in zip(kinds, rows(), strict=True)]
        found = look(csv(tmp_path, head + "\n".join(lines)))
        assert [k for k in found if k.endswith("events.types")] == [key] * bool(key)


def test_kinds_without_interest_are_left_out(tmp_path: Path):
    kinds = ["view", "remove_from_cart", "purchase"]
    lines = [f"{t},{u},{kinds[n % 3]},{i}" for n, (u, i, t) in enumerate(rows())]
    found = look(csv(tmp_path, "event_time,user_id,event_type,product_id\n" + "\n".join(lines)))
    assert found["events.where"] == ["event_type in [purchase, view]"]


def test_a_semicolon_file_in_latin_1(tmp_path: Path):
    lines = [f"Müller{u};{i};{1 + n % 28:02}.02.2011 10:00" for n, (u, i, _) in enumerate(rows())]
    path = csv(tmp_path, "Kunde;Artikel;Datum\n" + "\n".join(lines), encoding="latin-1")
    found = look(path)
    assert (found["events.separator"], found["events.encoding"]) == (";", "cp1252")
    assert found["events.time_format"] == "%d.%m.%Y %H:%M"
    assert found["events.item_column"] == "Artikel"


def test_json_lines_have_nested_keys(tmp_path: Path):
    lines = [
        {
            "user": {"id": f"u{u}"},
            "object": {"product_id": f"p{i}"},
            "ts": f"2024-01-{1 + n % 28:02}",
        }
        for n, (u, i, _) in enumerate(rows())
    ]
    found = look(csv(tmp_path, "\n".join(map(json.dumps, lines)), "log.jsonl"))
    assert found["events.format"] == "jsonl"
    assert found["events.user_column"] == "user.id"
    assert found["events.item_column"] == "object.product_id"


def test_the_hours_of_a_day_in_gz_are_one_log_with_partitions(tmp_path: Path):
    for number, day in enumerate(("2024-01-01", "2024-01-02")):
        folder = tmp_path / f"dt={day}"
        folder.mkdir()
        for hour in range(24):
            text = "user,item,time\n" + "".join(
                f"{u},{i},{START + 86400 * number + 3600 * hour + n}\n"
                for n, (u, i, _) in enumerate(rows(30))
            )
            (folder / f"hour-{hour:02}.csv.gz").write_bytes(gzip.compress(text.encode()))
    chosen = choose(str(tmp_path))
    assert (len(chosen.log.kind.files), chosen.partition) == (48, ("events.partition_column", "dt"))
    assert (chosen.log.sample.num_files, chosen.log.sample.is_whole) == (48, True)
    assert str(run_date(chosen.log)) == "2024-01-03"


@pytest.mark.parametrize(
    ("folder", "layout"),
    [
        ("year=2024/month=1/day=2", "year=%Y/month=%m/day=%d"),
        ("dt=20240102", "dt=%Y%m%d"),
        ("2024/01/02", "%Y/%m/%d"),
    ],
)
def test_other_layouts_of_dates_are_partitions_as_well(folder: str, layout: str):
    files = [InputFile(f"/log/{folder}/{name}.csv", 1, "") for name in "ab"]
    assert partition_of(files) == ("events.partition_format", layout)
    assert partition_of([*files, InputFile("/log/c.csv", 1, "")]) is None


def test_times_that_can_t_be_read_are_allowed_for(tmp_path: Path):
    lines = [f"{t if n % 10 else 'soon'},{u},{i}" for n, (u, i, t) in enumerate(rows())]
    found = look(csv(tmp_path, "timestamp,user_id,item_id\n" + "\n".join(lines)))
    assert found["events.max_bad_fraction"] == 0.12


def test_a_delta_table_is_named_as_a_table(tmp_path: Path):
    from deltalake import write_deltalake

    users, items, times = zip(*rows(), strict=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    write_deltalake(str(tmp_path / "t"), table)
    text = written(choose(str(tmp_path / "t")), str(tmp_path / "t"), "lake")
    config = load_config(text, source="x")
    assert config.events.source == f"events.table={tmp_path}/t"
    assert config.events.table_format == "delta"


def test_a_delta_table_has_the_columns_of_its_partitions_and_no_deleted_row(tmp_path: Path):
    from deltalake import DeltaTable, write_deltalake

    users, items, times = zip(*rows(), strict=True)
    kinds = ["purchase" if n % 3 == 0 else "view" for n in range(len(users))]
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times, "event_type": kinds})
    write_deltalake(str(tmp_path / "t"), table, partition_by=["event_type"])
    DeltaTable(str(tmp_path / "t")).delete("user_id = 0")
    log = choose(str(tmp_path / "t")).log
    assert (log.sample.rows, log.sample.is_whole, log.user.column.distinct) == (285, True, 19)
    assert look(tmp_path / "t")["events.type_column"] == "event_type"


def test_names_and_texts_stand_in_a_condition_as_it_reads_them():
    assert (in_condition("event type"), in_condition("qty")) == ("`event type`", "qty")


def test_parquet_with_timestamps_needs_no_unit(tmp_path: Path):
    users, items, times = zip(*rows(), strict=True)
    moments = pa.array(times).cast(pa.timestamp("s")).cast(pa.timestamp("ms", "UTC"))
    table = pa.table({"customer": users, "sku": [f"s{i}" for i in items], "bought_at": moments})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=50)
    found = look(tmp_path / "log.parquet")
    assert found["events.format"] == "parquet"
    assert not {"events.time_unit", "events.time_format", "events.id_type"} & set(found)
    assert choose(str(tmp_path)).log.sample.is_whole


def test_the_log_is_found_beside_other_files_which_are_named(tmp_path: Path):
    body = "".join(f"{t},{u},{i}\n" for u, i, t in rows())
    for number in (1, 2):
        csv(tmp_path, "timestamp,user_id,item_id\n" + body, f"events-{number}.csv")
    csv(tmp_path, "categoryid,parentid\n1,2\n3,4\n", "category_tree.csv")
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04 and so on")
    chosen = choose(str(tmp_path))
    assert chosen.path == f"{tmp_path}/events-*"
    assert "category_tree.csv: no column for the" in "; ".join(chosen.left_out)
    assert "book.xlsx: " in "; ".join(chosen.left_out)


def test_no_log_is_an_error_that_says_what_is_missing(tmp_path: Path):
    csv(tmp_path, "product_id,title\n1,soap\n2,tea\n", "items.csv")
    with pytest.raises(InputDataError, match=r"items.csv: no column for the user and the time"):
        choose(str(tmp_path))


def test_the_newest_time_of_a_large_parquet_file_stands_in_its_footer(tmp_path: Path):
    users, items, times = zip(*rows(), strict=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=50)
    log = choose(str(tmp_path)).log
    few = replace(log.sample, table=table.slice(0, 50), is_whole=False)
    assert str(run_date(log_of(log.kind, few))) == "2024-04-10"


def test_only_another_day_makes_a_repeat():
    users, items = pa.chunked_array([[1, 1, 1, 2]]), pa.chunked_array([[7, 7, 7, 7]])
    assert count_repeats(users, items, pa.array([0, 0, 3, 3]).to_numpy()) == (1, 3)


# --- the file ---


def test_a_value_is_written_on_one_line_as_yaml_reads_it_back():
    for value in ("\t", "::", ["a, b", "c"], "%d/%m/%y", 0.3, False, "no", "12", "x # y"):
        assert "\n" not in in_yaml(value)
        assert yaml.safe_load(f"key: {in_yaml(value)}") == {"key": value}


def test_choices_are_comments_and_names_steer_nothing():
    entry = Entry("events.user_column", "a", ("why\nlake: evil",), (("b", "may be meant"),))
    text = configuration(["head"], ["who"], [Entry("lake", "lake"), entry])
    assert yaml.safe_load(text) == {"lake": "lake", "events": {"user_column": "a"}}
    assert "# user_column: b    # may be meant" in text
    assert "#   - who" in text


def test_the_file_is_a_configuration_that_the_product_takes(tmp_path: Path):
    body = "".join(f"{t},{u},{i}\n" for u, i, t in rows())
    path = csv(tmp_path, "timestamp,user_id,item_id\n" + body)
    chosen = choose(str(path))
    config = load_config(written(chosen, str(path), "lake"), source="x")
    assert (config.events.path, config.events.time_unit) == (str(path), "s")
    assert config.score.filter_seen and config.score.decode == "multi"
    assert str(run_date(chosen.log)) == "2024-04-10"  # 300 events, three a day


def test_the_run_date_is_not_that_of_a_row_without_a_user(tmp_path: Path):
    body = "".join(f"{t},{u},{i}\n" for u, i, t in rows())
    body += f"{START + 110 * 86400},,7\n"
    chosen = choose(str(csv(tmp_path, "timestamp,user_id,item_id\n" + body)))
    assert str(run_date(chosen.log)) == "2024-04-10"


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        refuse_overwriting(tmp_path / "my.yaml", force=False)
    refuse_overwriting(tmp_path / "my.yaml", force=True)


def test_the_last_lines_are_the_commands_of_the_first_night(tmp_path: Path):
    arguments = parse_init(["log.csv", "--output", "my.yaml"])
    path = csv(
        tmp_path, "timestamp,user_id,item_id\n" + "".join(f"{t},{u},{i}\n" for u, i, t in rows())
    )
    ds = run_date(choose(str(path)).log)
    text = "\n".join(last_lines(arguments, ds, 0))
    assert f"jobs.nightly --config my.yaml --date {ds} --new-lake" in text
    assert "--dry-run" in "\n".join(last_lines(arguments, ds, 3))
