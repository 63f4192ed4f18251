"""CSV as tools write it: separators, headers, quotes, escapes, encodings, null texts."""

import gzip

import pytest
from checked_rows import read_csv, users_of
from written_logs import inspected, refusal

from diffsasrec.formats.csv_layout import CsvStyle, find_layout
from diffsasrec.formats.csv_rows import SAMPLE_BYTES

HEADER = "user_id,item_id,timestamp\n"
ROWS = "u,i,5\nv,j,6\n"
COLUMNS = ["user_id", "item_id", "timestamp"]


def pairs(tmp_path, text, **settings):
    data = text if isinstance(text, bytes) else text.encode()
    kept, counts, _ = read_csv(tmp_path, data, **{"time_unit": "s", **settings})
    assert counts["rows"] == len(kept)
    return [(event["user_id"], event["item_id"]) for event in kept]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::", "\x01"])
@pytest.mark.parametrize("header", [True, False])
def test_the_separator_is_found_by_the_columns(tmp_path, separator, header):
    text = (HEADER * header + ROWS).replace(",", separator)
    columns = None if header else COLUMNS
    assert pairs(tmp_path, text, columns=columns) == [("u", "i"), ("v", "j")]


@pytest.mark.parametrize("separator", ["^", "||", "\x1f"])
def test_another_separator_has_a_key(tmp_path, separator):
    text = (HEADER + ROWS).replace(",", separator)
    assert pairs(tmp_path, text, separator=separator) == [("u", "i"), ("v", "j")]


@pytest.mark.parametrize("size", [20, 33, 47, 2**20])
def test_a_separator_of_two_characters_may_lie_over_the_border_of_chunks(
    tmp_path, size, monkeypatch
):
    sizes = "diffsasrec.formats.chunks.CHUNK_BYTES"
    monkeypatch.setattr(sizes, size)  # a size, so that a small file has borders
    text = "".join(f"u{n}::i:{n}::{n}\n" for n in range(20))
    expected = [(f"u{n}", f"i:{n}") for n in range(20)]
    assert pairs(tmp_path, text, columns=COLUMNS) == expected


def test_a_broken_line_is_shown_with_its_own_separator(tmp_path):
    text = "u::i::5\nu::i\n"
    _, _, [bad] = read_csv(tmp_path, text.encode(), time_unit="s", columns=COLUMNS)
    assert bad["text"] == "u::i"


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\n" + (HEADER + ROWS).replace(",", ";"),
        (HEADER + ROWS).replace("\n", ",\n"),
        HEADER + ROWS.replace("\n", ",\n"),
        '"user_id","item_id","timestamp"\n' + ROWS,
        "user_id, item_id , timestamp\n" + ROWS,
        (HEADER + ROWS).encode("utf-16"),
        gzip.compress(HEADER.encode()) + gzip.compress(ROWS.encode()),
    ],
    ids=["sep", "trailing", "trailing but in the header", "quoted", "blanks", "utf-16", "gzip"],
)
def test_what_a_header_may_look_like(tmp_path, text):
    assert pairs(tmp_path, text) == [("u", "i"), ("v", "j")]


def test_a_header_that_is_no_header_is_refused_with_the_keys_that_mend_it(tmp_path):
    path = tmp_path / "log.csv"
    for text, key in (
        (ROWS, "events.columns"),
        ((HEADER + ROWS).replace(",", "^"), "events.separator"),
        ("# exported\n" + HEADER + ROWS, "events.skip_lines"),
    ):
        path.write_text(text)
        assert f"set {key}" in refusal(path, format="csv")
    assert pairs(tmp_path, "# exported\n" + HEADER + ROWS, skip_lines=1) == [("u", "i"), ("v", "j")]


def test_a_backslash_may_stand_before_a_quote(tmp_path):
    text = 'note,user_id,item_id,timestamp\n"{\\"a\\":\\"x,\\\n y\\"}",u,i,5\nplain,v,"j\\"",6\n'
    assert pairs(tmp_path, text, escape="\\") == [("u", "i"), ("v", 'j"')]
    long = text + '"\\"two\n lines",w,k,7\n' * 50
    assert len(pairs(tmp_path, long, escape="\\")) == 52


def test_without_a_quote_it_is_a_character_like_any_other(tmp_path):
    assert pairs(tmp_path, HEADER + '"u,i",5\n', quote=None) == [('"u', 'i"')]
    assert pairs(tmp_path, HEADER + "'u,v','i',5\n", quote="'") == [("u,v", "i")]


@pytest.mark.parametrize("null", ["\\N", "NULL", "null", "NA", "NaN", ""])
def test_texts_that_are_no_value_are_no_ids(tmp_path, null):
    data = f'{HEADER}{null},i,5\nu,{null},5\nu,i,{null}\n"NULL","\\N",5\n'.encode()
    kept, counts, _ = read_csv(tmp_path, data, time_unit="s")
    assert [(event["user_id"], event["item_id"]) for event in kept] == [("NULL", "\\N")]
    assert [counts[f"null_{name}"] for name in ("user_id", "item_id", "time")] == [1, 1, 1]


def test_which_texts_are_no_value_has_a_key(tmp_path):
    assert pairs(tmp_path, HEADER + "NA,i,5\n", null_texts=["-"]) == [("NA", "i")]


def test_another_encoding_has_a_key(tmp_path):
    data = (HEADER + "Müller,i,5\n").encode("latin-1")
    _, counts, _ = read_csv(tmp_path, data, time_unit="s")
    assert counts["invalid_utf8_user_id"] == 1
    assert pairs(tmp_path, data, encoding="latin-1") == [("Müller", "i")]
    with pytest.raises(ValueError, match=r"events\.encoding=latin-99 is not known"):
        pairs(tmp_path, data, encoding="latin-99")


def test_thousands_are_grouped_by_a_separator(tmp_path):
    text = (HEADER + '"1,234,567","12,5",5\n').replace("5\n", '"1,704,067,200"\n')
    kept, _, _ = read_csv(tmp_path, text.encode(), time_unit="s", thousands=",")
    assert kept == [{"user_id": "1234567", "item_id": "12,5", "timestamp": 1_704_067_200_000_000}]


def test_fractions_stand_behind_a_comma_where_the_key_says_so(tmp_path):
    text = HEADER + '"17,850,0";i;1.704.067.200,25\n'
    kept, _, _ = read_csv(
        tmp_path,
        text.replace("17,850,0", "17850,0").replace("_id,", "_id;").encode(),
        time_unit="s",
        thousands=".",
        decimal=",",
    )
    (event,) = kept
    assert (event["user_id"], event["timestamp"]) == ("17850", 1_704_067_200_250_000)


def test_conditions_compare_numbers_with_a_comma(tmp_path):
    text = "user_id;item_id;timestamp;qty\nu;i;5;-1,50\nv;j;6;0,5\n"
    kept, counts, _ = read_csv(
        tmp_path, text.encode(), time_unit="s", decimal=",", where=["qty > 0"]
    )
    assert (users_of(kept), counts["filtered"]) == (["v"], 1)


def test_marks_of_numbers_are_one_sign_each_and_not_the_same(tmp_path):
    with pytest.raises(ValueError, match=r"events\.decimal='': give one sign"):
        pairs(tmp_path, HEADER + ROWS, decimal="")
    with pytest.raises(ValueError, match="are both ','"):
        pairs(tmp_path, HEADER + ROWS, decimal=",", thousands=",")


def test_the_line_by_which_a_spreadsheet_states_its_separator_is_no_row(tmp_path):
    text = "sep=;\n" + (HEADER + ROWS).replace(",", ";")
    for separator in (None, ";"):
        assert pairs(tmp_path, text, separator=separator) == [("u", "i"), ("v", "j")]


# --- ids that a table of floats has made of integers ---


def test_integers_that_were_written_as_floats_are_integers_in_all_files(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + "17850.0,i,5\n,i,5\n")
    (tmp_path / "b.csv").write_text(HEADER + "17850,i,6\n")
    log = inspected(tmp_path, format="csv")
    assert [fragment.integral for fragment in log.fragments] == [("user_id",)] * 2
    assert "17850.0 in" in log.notes[0] and "set events.id_type to string" in log.notes[0]
    kept, _, _ = read_csv(tmp_path, (HEADER + "1.0,i,5\n2,i,6\n").encode(), time_unit="s")
    assert users_of(kept) == ["1", "2"]


def test_floats_that_begin_behind_the_first_rows_of_a_file_are_integers_too(tmp_path):
    whole = "17850,i,5\n" * (SAMPLE_BYTES // 10 + 1)
    text = HEADER + whole + "17850.0,i,5\n,i,5\nx.0,i,5\n"
    kept, _, _ = read_csv(tmp_path, text.encode(), time_unit="s")
    assert set(users_of(kept)) == {"17850", "x.0"}
    kept, _, _ = read_csv(tmp_path, text.encode(), time_unit="s", id_type="string")
    assert set(users_of(kept)) == {"17850", "17850.0", "x.0"}


@pytest.mark.parametrize("ids", [["1.0", "1.5"], ["1.0", "x"], ["v1.0"], ["1", "2"]])
def test_texts_that_are_not_all_integers_stay_as_they_are(tmp_path, ids):
    text = HEADER + "".join(f"{user},i,5\n" for user in ids)
    kept, _, _ = read_csv(tmp_path, text.encode(), time_unit="s")
    assert users_of(kept) == ids


def test_ids_that_are_asked_for_as_texts_stay_as_they_are(tmp_path):
    text = (HEADER + "1.0,i,5\n").encode()
    kept, _, _ = read_csv(tmp_path, text, time_unit="s", id_type="string")
    assert users_of(kept) == ["1.0"]
    kept, _, _ = read_csv(
        tmp_path, (HEADER + "1.0, 7 ,5\n").encode(), time_unit="s", id_type="int64"
    )
    assert [(event["user_id"], event["item_id"]) for event in kept] == [(1, 7)]


def test_a_layout_waits_for_the_whole_first_line():
    assert find_layout(b"user_id,item", COLUMNS, CsvStyle(), at_end=False) is None
    assert find_layout(b"\n \n", COLUMNS, CsvStyle(), at_end=True) is None
    found = find_layout(b"a|b|c\n1|2|3\n", ["b"], CsvStyle(), at_end=False)
    assert found is not None
    assert (found.names, found.separator, found.body) == (["a", "b", "c"], b"|", b"1|2|3\n")
