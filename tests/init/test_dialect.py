"""What kind of file some bytes are, and how the rows of a text file are written."""

import pyarrow as pa
import pytest

from jobs.init.sniff.dialect import Dialect, encoding_of, kind_of, sniff
from jobs.init.sniff.rows import csv_rows, in_detail, json_rows, whole_lines

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
        (b"FEA1\x00", "a feather file"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), "an old Excel workbook (xls)"),
        (b"a.csv".ljust(257, b"\0") + b"ustar", "a tar archive; unpack it"),
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
    table, uneven = csv_rows(RETAIL + b"too,few\n", sniff(RETAIL), from_start=True)
    assert table["CustomerID"].to_pylist() == ["17850", None]
    assert table["Quantity"].to_pylist() == ["6", "-1"]
    assert uneven == 1


def test_a_separator_of_two_letters_parts_rows_as_well():
    table, uneven = csv_rows(RATINGS, sniff(RATINGS), from_start=True)
    assert table["column_2"].to_pylist() == ["1193", "661", "1193"]
    assert uneven == 0


def test_a_nested_key_has_the_keys_above_it_before_it():
    lines = b'{"user": {"id": 7}, "tags": [1], "at": "2024-01-01"}\nbroken\n{"user": {"id": 8}}\n'
    table, broken = json_rows(lines)
    assert table["user.id"].to_pylist() == [7, 8]
    assert pa.types.is_list(table["tags"].type)
    assert broken == 1


def test_lines_that_are_cut_off_are_left_out():
    assert whole_lines(b"d,1\ne,2\nf", from_start=False, to_end=False) == b"e,2\n"
    assert whole_lines(b"d,1\ne,2\nf", from_start=True, to_end=True) == b"d,1\ne,2\nf"


TABLE = "Kunde;Artikel;Datum\n7;12;01.02.2011\n8;13;02.02.2011\n9;14;03.02.2011\n"


@pytest.mark.parametrize(
    ("above", "skipped"),
    [("", 0), ("Export, alle Filialen\n\nStand: 2011\n", 3), ("# a\n", 1), ("sep=;\n", 0)],
)
def test_lines_above_the_header_are_skipped(above: str, skipped: int):
    text = (above + TABLE).encode()
    found = sniff(text)
    assert (found.names, found.skip_lines) == (("Kunde", "Artikel", "Datum"), skipped)
    table, uneven = csv_rows(text, found, from_start=True)
    assert (table["Kunde"].to_pylist(), uneven) == (["7", "8", "9"], 0)


def test_rows_may_end_with_a_separator_that_the_header_has_not():
    text = b"user_id,item_id,timestamp\n7,12,978300760,\n8,12,978300761,\n"
    found = sniff(text)
    assert (found.names, found.has_header) == (("user_id", "item_id", "timestamp", ""), True)
    assert csv_rows(text, found, from_start=True)[0]["timestamp"].to_pylist() == [
        "978300760",
        "978300761",
    ]


def test_a_name_may_be_given_twice_in_a_header():
    found = sniff(b"user_id,name,item_id,name,ts\n7,a,12,b,978300760\n8,c,12,d,978300761\n")
    assert found.has_header and found.names[:3] == ("user_id", "name", "item_id")
    assert not sniff(b"a,a,5\nb,c,6\nd,e,7\n").has_header


def test_quotes_behind_backslashes_and_other_quotes_are_understood():
    rows = "".join(f'"a \\"{n} inch\\", disk",{n},{n},978300760\n' for n in range(20))
    text = f"title,user_id,item_id,ts\n{rows}".encode()
    found = in_detail(text, sniff(text))
    assert (found.escape, found.separator, found.names[1]) == ("\\", ",", "user_id")
    plain = b'title,user_id\n"a disk\\",7\n"b",8\n'  # a text that ends with a backslash
    assert in_detail(plain, sniff(plain)).escape is None
    assert sniff(b"'user_id','ts'\n'7','978300760'\n").names == ("user_id", "ts")


def test_a_line_ends_where_a_night_ends_it():
    text = "review,user_id,ts\ngood\u2028very\x0cgood\x85,7,978300760\n".encode()
    assert (sniff(text).lines, sniff(text).even) == (2, 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("text", "kind"), [("user,ü\n1,2\n", "csv"), ('{"user": "ü"}\n', "jsonl")])
def test_two_bytes_a_letter_are_text_with_a_mark_or_without(encoding: str, text: str, kind: str):
    assert (kind_of(text.encode(encoding)), encoding_of(text.encode(encoding))) == (kind, encoding)


def test_json_lines_may_be_in_latin_1():
    assert kind_of('{"user": "Müller"}\n'.encode("latin-1")) == "jsonl"


def test_integers_of_twenty_digits_are_no_floats():
    table, _ = json_rows(b'{"user": 10000000000000000007}\n{"user": 1.5}\n')
    assert table["user"].to_pylist() == ["10000000000000000007", "1.5"]
