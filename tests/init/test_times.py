"""How a column writes times."""

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from diffsasrec.times import microseconds
from jobs.init.sniff.plain import plain
from jobs.init.sniff.time_values import parse_all
from jobs.init.sniff.times import TimeGuess, guess_times

AT = microseconds("2015-06-02T05:02:12.117")


def guess(*values: object, type: pa.DataType | None = None) -> TimeGuess:
    found = guess_times(plain(pa.chunked_array([pa.array(values, type)])))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "unit"), [(AT // 10**6, "s"), (AT // 1000, "ms"), (AT, "us"), (AT * 1000, "ns")]
)
def test_the_unit_of_a_number_is_the_one_in_which_it_is_of_today(value: int, unit: str):
    assert guess(value).unit == guess(str(value)).unit == unit
    assert abs(guess(value).times[0] - AT) < 10**6


def test_a_number_with_a_fraction_is_a_time_as_well():
    found = guess("1433221332.117", "1433221333.5")
    assert (found.unit, found.is_float) == ("s", True)


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("12/1/10 8:26", "%d/%m/%y %H:%M"),
        ("12/13/10 8:26", "%m/%d/%y %H:%M"),
        ("13.12.2010 08:26:00", "%d.%m.%Y %H:%M:%S"),
        ("20101213", "%Y%m%d"),
        ("Dec 13, 2010", "%b %d, %Y"),
        ("13/Dec/2010:08:26:00 -0700", "%d/%b/%Y:%H:%M:%S %z"),
        ("Mon Dec 13 08:26:00 +0000 2010", "%a %b %d %H:%M:%S %z %Y"),
        ("2010-12-13 08:26:00 UTC", "%Y-%m-%d %H:%M:%S UTC"),
        ("12/13/2010 8:26:10 PM", "%m/%d/%Y %I:%M:%S %p"),
        ("20101213082610", "%Y%m%d%H%M%S"),
        ("13. Dezember 2010 08:26", "%d. %B %Y %H:%M"),
        ("13 déc. 2010", "%d %B %Y"),
    ],
)
def test_a_text_has_the_format_that_explains_it(text: str, template: str):
    found = guess(text)
    assert template in (*found.formats, *found.other_formats)
    assert found.share == 1


def test_days_first_or_months_first_are_told_apart_by_a_thirteenth():
    assert guess("1/2/2011", "13/2/2011").other_formats == ()
    assert guess("1/2/2011", "13/2/2011").formats == ("%d/%m/%Y",)
    undecided = guess("1/2/2011", "3/4/2011")
    assert {*undecided.formats, *undecided.other_formats} == {"%d/%m/%Y", "%m/%d/%Y"}


def test_times_that_hardly_fall_decide_where_all_fit():
    days = [f"{month}/{day}/2011" for month in (1, 2, 3) for day in (3, 7, 11)]
    assert guess(*days).formats == ("%m/%d/%Y",)


def test_texts_of_two_shapes_get_two_formats():
    found = guess("2019/11/01 00:00:00", "2019-11-02 00:00:00 UTC")
    assert found.formats == ("%Y/%m/%d %H:%M:%S", "%Y-%m-%d %H:%M:%S UTC")


def test_iso_texts_and_timestamps_need_no_key():
    for found in (guess("2015-06-02T05:02:12.117Z"), guess(datetime(2015, 6, 2, tzinfo=UTC))):
        assert (found.unit, found.formats) == (None, ())


def test_dates_alone_have_no_clock():
    assert not guess("2015-06-02").has_clock
    assert not guess(datetime(2015, 6, 2).date()).has_clock


def test_zero_dates_are_counted_as_no_times():
    found = guess("0000-00-00 00:00:00", "2024-01-02 08:00:00", "2024-01-03 08:00:00")
    assert (len(found.times), found.sampled) == (2, 3)


@pytest.mark.parametrize("value", ["hello", "17850", 17850, 2.5, "4111111111111111", None])
def test_what_is_no_time_of_today_is_none(value: object):
    assert guess_times(pa.chunked_array([pa.array([value, value])])) is None


def test_every_value_is_parsed_and_what_is_none_is_nan():
    column = pa.chunked_array([["12/13/10 8:26", "soon", None]])
    found = parse_all(column, None, ("%m/%d/%y %H:%M",))
    assert found[0] == microseconds("2010-12-13T08:26")
    assert np.isnan(found[1:]).all()


def test_months_of_every_length_and_language_are_one_format():
    found = guess("3. Mai 2010", "13. Dezember 2010", "1. Februar 2010")
    assert (found.formats, found.share) == (("%d. %b %Y",), 1)
    assert guess("May 3, 2010", "December 13, 2010").share == 1


def test_what_iso_8601_allows_is_read_as_a_night_reads_it():
    some = ("2010-12-13 08:26:00,117", "20101213T082600Z", "2010-12-13T24:00:00", "2010-W50-1")
    for text in (*some, "2010-12-13t08:26:00z", "2010-12-13 08:26+00", "2010-12-13T08:26Z[UTC]"):
        assert (guess(text).formats, guess(text).share) == ((), 1)


def test_digits_of_a_day_and_a_clock_are_a_time_as_numbers_too():
    assert guess(20101213082610).formats == ("%Y%m%d%H%M%S",)
    assert guess(Decimal("1433221332.117")).unit == "s"
