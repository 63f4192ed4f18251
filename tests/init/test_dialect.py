"""What kind of file some bytes are, and how the rows of a text file are written."""

import pytest

from jobs.init.sniff.dialect import Dialect, encoding_of, kind_of, sniff
from jobs.init.sniff.rows import csv_rows, json_rows, whole_lines

RATINGS = b"1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978301968\n"
RETAIL = (
    b"InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    b'536365,85123A,"HOLDER, WHITE",6,12/1/10 8:26,2.55,17850,United Kingdom\n'
    b"C536379,D,Discount,-1,12/1/10 9:41,27.50,,United Kingdom\n"
)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PAR1\x15\x04", "parquet"),
        (b'{"user": 1}\n{"user": 2}\n', "jsonl"),
        (b'[{"user": 1},\n', "json"),
        (b'{\n  "user": 1\n}\n', "json"),
        (b"user,item\n1,2\n", "csv"),
        (b" \n\n", "empty"),
        (b"PK\x03\x04\x14\x00", "a zip archive of several files"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"\x00\x01\x02", "a binary file"),
    ],
)
def test_a_file_is_what_its_first_bytes_say(head: bytes, kind: str):
    assert kind_of(head) == kind


def test_two_colons_part_the_fields_of_movielens_1m_which_has_no_header():
    names = ("column_1", "column_2", "column_3", "column_4")
    assert sniff(RATINGS) == Dialect("::", names, False, "utf-8", lines=3, even=3)


def test_a_header_is_text_above_numbers():
    found = sniff(b"kunde\tartikel\twann\n7\t12\t978300760\n8\t12\t978300761\n")
    assert (found.separator, found.has_header) == ("\t", True)
    assert found.names == ("kunde", "artikel", "wann")


def test_tabs_without_a_header_are_the_ratings_of_movielens_100k():
    found = sniff(b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    assert (found.separator, found.has_header, len(found.names)) == ("\t", False, 4)


def test_a_comma_in_quotes_parts_no_fields():
    found = sniff(RETAIL)
    assert (found.separator, len(found.names), found.even) == (",", 8, 3)


def test_a_semicolon_file_in_latin_1_has_commas_in_its_numbers():
    found = sniff(
        "Kunde;Artikel;Datum;Preis\nMüller;7;01.02.2011;1,50\nMay;8;02.02.2011;2,50\n".encode(
            "latin-1"
        )
    )
    assert (found.separator, found.encoding, found.has_header) == (";", "cp1252", True)


def test_utf_8_that_is_cut_off_within_a_letter_is_utf_8():
    assert encoding_of("müßig".encode()[:-1] + "ü".encode()[:1]) == "utf-8"


def test_rows_are_strings_and_what_stands_for_nothing_is_null():
    table, uneven = csv_rows(RETAIL + b"too,few\n", sniff(RETAIL), with_header=True)
    assert table["CustomerID"].to_pylist() == ["17850", None]
    assert table["Quantity"].to_pylist() == ["6", "-1"]
    assert uneven == 1


def test_a_separator_of_two_letters_parts_rows_as_well():
    table, uneven = csv_rows(RATINGS, sniff(RATINGS), with_header=False)
    assert table["column_2"].to_pylist() == ["1193", "661", "1193"]
    assert uneven == 0


def test_a_nested_key_has_the_keys_above_it_before_it():
    lines = b'{"user": {"id": 7}, "tags": [1], "at": "2024-01-01"}\nbroken\n{"user": {"id": 8}}\n'
    table, broken = json_rows(lines)
    assert table["user.id"].to_pylist() == [7, 8]
    assert table["tags"].to_pylist() == ["[1]", None]
    assert broken == 1


def test_lines_that_are_cut_off_are_left_out():
    assert whole_lines(b"d,1\ne,2\nf", from_start=False, to_end=False) == b"e,2\n"
    assert whole_lines(b"d,1\ne,2\nf", from_start=True, to_end=True) == b"d,1\ne,2\nf"
