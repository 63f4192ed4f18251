"""What a person should look at, since the rows could not tell it."""

from pathlib import Path

from jobs.init.choosing import choose
from jobs.init.questions import undecided

START = 1704067200  # 2024-01-01


def asked(path: Path, lines: list[str], encoding: str = "utf-8") -> str:
    path.write_bytes("\n".join(lines).encode(encoding))
    return "; ".join(undecided(choose(str(path.parent)).log))


def rows(user: str = "{u}", item: str = "{i}", time: str = "{t}") -> list[str]:
    line = f"{user},{item},{time}"
    return [line.format(n=n, u=n % 60, i=n // 3, t=START + 9000 * n) for n in range(600)]


def test_a_user_with_a_tenth_of_all_rows_may_stand_for_those_who_are_not_known(tmp_path: Path):
    head = "user_id,item_id,timestamp"
    some = [f"0,{n},{START + n}" for n in range(100)]
    says = asked(tmp_path / "a.csv", [head, *rows(), *some])
    assert "whether user_id 0 is one user, with 110 of 700 rows" in says
    assert "events.where: ['user_id != 0']" in says
    assert "is one user" not in asked(tmp_path / "a.csv", [head, *rows()])


def test_a_time_of_day_in_a_column_of_its_own_is_not_read(tmp_path: Path):
    lines = [
        "user,item,date,time",
        *(f"{n % 60},{n},2024-01-{n % 28 + 1:02},18:05" for n in range(600)),
    ]
    assert "date has days alone, and the time of day in time is not read" in asked(
        tmp_path / "a.csv", lines
    )


def test_ids_that_a_spreadsheet_has_rounded_are_named(tmp_path: Path):
    lines = ["user,ean,time", *rows(item="4.0064{u:02}E+12")]
    assert "ean has ids such as 4.006400E+12: a spreadsheet" in asked(tmp_path / "a.csv", lines)


def test_two_encodings_of_one_log_are_named_and_one_alone_is_the_key(tmp_path: Path):
    lines = ["user,item,time", *rows(user="Müller{u}")]
    assert "events.encoding" not in asked(tmp_path / "a.csv", lines, "cp1252")
    assert choose(str(tmp_path)).log.encoding == "cp1252"
    says = asked(tmp_path / "b.csv", lines)
    assert "events.encoding: some texts are UTF-8, others cp1252" in says


def test_types_that_many_rows_lack_are_proposed_and_not_set(tmp_path: Path):
    kinds = ["" if n % 10 == 0 else "view" if n % 3 else "purchase" for n in range(600)]
    lines = [f"{row},{kind}" for row, kind in zip(rows(), kinds, strict=True)]
    says = asked(tmp_path / "a.csv", ["user,item,time,event_type", *lines])
    assert "event_type are worth (view 360, purchase 180): all count alike" in says
