"""How the numbers of a CSV are written."""

import pyarrow as pa
import pytest

from jobs.init.sniff.numbers import number_marks


@pytest.mark.parametrize(
    ("name", "values", "separator", "marks"),
    [
        ("Menge", ["-1,00", "2,00"], ";", (None, ",")),
        ("Menge", ["1.000,5", "2"], ";", (".", ",")),
        ("quantity", ["1,500", "-2"], ",", (",", None)),
        ("quantity", ["1,500", "-2"], ";", (None, ",")),  # kilograms?
        ("quantity", ["1.500", "-0.250"], ",", (None, None)),
        ("Menge", ["1'200", "-1"], ";", ("'", None)),
        ("quantity", ["1.5", "few"], ",", (None, None)),
        ("Zeit", ["1704067200,25", "1704067201"], ";", (None, ",")),
        ("Artikel", ["1.234", "99", "1.234.567"], ";", (".", None)),
        ("isbn", ["978.100.200", "979.300.400"], ",", (None, None)),  # a code
        ("Preis", ["1,50"], ";", (None, None)),  # nothing reads it
    ],
)
def test_thousands_and_fractions_are_told_by_the_columns_that_are_read(
    name: str, values: list[str], separator: str, marks: tuple[str | None, str | None]
):
    assert number_marks(pa.table({name: values}), separator) == marks
