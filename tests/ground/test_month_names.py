"""Months that are named in other languages."""

import pyarrow as pa
import pytest

from diffsasrec.month_names import in_english, with_full_names


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("31. Dezember 2024", "31. December 2024"),
        ("1. Mrz. 2024", "1. March 2024"),
        ("1. März 2024", "1. March 2024"),
        ("3 févr. 2024", "3 February 2024"),
        ("1 août 2024", "1 August 2024"),
        ("1 de mayo de 2024", "1 de May de 2024"),
        ("5 gennaio 2024", "5 January 2024"),
        ("5 out 2024", "5 October 2024"),
        ("5 mei 2024", "5 May 2024"),
        ("Dec 5, 2024", "December 5, 2024"),
        ("Marktwert 7", "Marktwert 7"),
    ],
)
def test_a_month_of_any_language_is_an_english_one(text: str, english: str):
    assert in_english(pa.array([text])).to_pylist() == [english]


def test_null_stays_null_and_a_format_asks_for_the_full_name():
    assert in_english(pa.array([None], pa.string())).to_pylist() == [None]
    assert with_full_names("%d %b. %Y") == "%d %B %Y"
