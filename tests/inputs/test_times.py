"""Times: one moment in every form, and what is none."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from checked_rows import NEW_YEAR, RUN_DATE, check_times, kept_times, time_reasons
from hypothesis import given, settings
from hypothesis import strategies as st

DAY_FIRST = ["%d/%m/%Y", "%Y-%m-%d"]

# --- times: one moment in every form ---


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", 1_704_067_200),
        ("ms", 1_704_067_200_000),
        ("us", 1_704_067_200_000_000),
        ("ns", 1_704_067_200_000_000_000),
    ],
)
def test_integers_of_every_unit_are_one_moment(unit, value):
    assert kept_times(pa.array([value]), time_unit=unit) == [NEW_YEAR]
    assert kept_times(pa.array([value], pa.uint64()), time_unit=unit) == [NEW_YEAR]
    assert kept_times(pa.array([str(value)]), time_unit=unit) == [NEW_YEAR]


@pytest.mark.parametrize("width", [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint32()])
def test_narrow_integers_are_times_too(width):
    assert kept_times(pa.array([0, 100], width), time_unit="s") == [0, 100_000_000]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_arrow_timestamps_are_one_moment_and_naive_ones_are_utc(unit, zone):
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    if zone is None:
        moment = moment.replace(tzinfo=None)
    assert kept_times(pa.array([moment], pa.timestamp(unit, tz=zone))) == [NEW_YEAR]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01 00:00:00",
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00.000000+00:00",
        "2024-01-01T02:00:00+02:00",
        "2023-12-31T19:00:00-05:00",
        "2024-01-01T05:30:00+0530",
        "20240101T000000Z",
    ],
)
def test_iso_strings_are_one_moment_and_naive_ones_are_utc(text):
    assert kept_times(pa.array([text])) == [NEW_YEAR]
    assert kept_times(pa.array([text], pa.large_string())) == [NEW_YEAR]
    assert kept_times(pa.array([text]).dictionary_encode()) == [NEW_YEAR]


def test_iso_strings_of_different_forms_may_stand_in_one_column():
    times = pa.array(["2024-01-01", "2024-01-01T02:00:00+02:00", "2024-01-01T00:00:00.000001Z"])
    assert kept_times(times) == [NEW_YEAR, NEW_YEAR, NEW_YEAR + 1]


def test_what_is_finer_than_a_microsecond_is_cut_off():
    assert kept_times(pa.array([1_999]), time_unit="ns") == [1]
    assert kept_times(pa.array([1_999], pa.timestamp("ns"))) == [1]
    assert kept_times(pa.array(["1970-01-01T00:00:00.000001999Z"])) == [1]


@settings(deadline=None, max_examples=50)
@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_an_iso_string_with_any_zone_is_the_moment_that_python_reads(moment, minutes):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert kept_times(pa.array([moment.isoformat()])) == [expected]


def test_a_far_date_is_read_whatever_precision_its_neighbours_have():
    far, fine = "9999-12-31", "2024-01-01T00:00:00.000000001Z"
    assert kept_times(pa.array([far])) == [253_402_214_400_000_000]
    assert kept_times(pa.array([fine, far])) == [NEW_YEAR, 253_402_214_400_000_000]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01T00:00:00,000Z",
        "2024-01-01t00:00:00z",
        "2024-01-01 00:00:00.000000 UTC",
        "2024-01-01T00:00:00Z[UTC]",
        "2024-01-01T02:00:00+02:00[Europe/Paris]",
        "2023-12-31T24:00:00",
        "2023-12-31 24:00Z",
        "2023-12-31T23:59:60Z",
        "2024-W01-1",
        " 2024-01-01",
        "2024-1-1 0:00:00",
    ],
)
def test_rare_forms_of_iso_and_what_bigquery_and_java_write_are_one_moment(text):
    assert kept_times(pa.array(["2024-01-01", text, "2024-01-01"])) == [NEW_YEAR] * 3


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("1/1/24 0:00", ["%d/%m/%y %H:%M"]),
        ("01.01.2024", ["%Y-%m-%d", "%d.%m.%Y"]),
        ("20240101", ["%Y%m%d"]),
        ("Mon Jan 01 00:00:00 +0000 2024", ["%a %b %d %H:%M:%S %z %Y"]),
        ("2024-01-01 01:00:00.5+0100", ["%Y-%m-%d %H:%M:%S.%f%z"]),
    ],
)
def test_a_time_may_have_a_format_of_its_own(text, layout):
    times = pa.array([text, "2024-13-13", None])
    checked = check_times(times, time_format=layout)
    [kept] = checked.events["timestamp"].to_pylist()
    assert kept in (NEW_YEAR, NEW_YEAR + 500_000)
    assert checked.bad["reason"].to_pylist() == ["unparsable_time", "null_time"]


def test_the_first_format_that_fits_a_row_is_taken():
    times = pa.array(["02/01/2024", "2024-01-01", "13/01/2024"])
    days = [(t - NEW_YEAR) // 86_400_000_000 for t in kept_times(times, time_format=DAY_FIRST)]
    assert days == [1, 0, 12]


def test_days_as_integers_are_days_by_a_format():
    assert kept_times(pa.array([20240101]), time_format=["%Y%m%d"]) == [NEW_YEAR]


def test_far_years_of_a_format_do_not_wrap():
    times = pa.array(["9999-12-31", "0001-01-01", "2024-01-01"])
    checked = check_times(times, time_format=["%Y-%m-%d"])
    assert checked.events["timestamp"].to_pylist() == [253_402_214_400_000_000, NEW_YEAR]
    assert checked.bad["reason"].to_pylist() == ["negative_time"]


@pytest.mark.parametrize(
    "number", [1704067200.25, "1704067200.25", "1.70406720025e9", "+1704067200.25 "]
)
def test_epochs_may_be_floats_and_texts_of_floats(number):
    assert kept_times(pa.array([number]), time_unit="s") == [NEW_YEAR + 250_000]


def test_floats_that_are_no_times_have_a_reason():
    floats = pa.array([5.0, float("nan"), float("inf"), 1e300, -5.0])
    reasons = ["null_time", "unparsable_time", "time_out_of_range", "negative_time"]
    assert time_reasons(floats, time_unit="s") == reasons


def test_decimals_are_times():
    assert kept_times(pa.array([Decimal("1704067200.5")]), time_unit="s") == [NEW_YEAR + 500_000]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_day_is_its_first_moment(kind):
    assert kept_times(pa.array([date(2024, 1, 1)], kind)) == [NEW_YEAR]


# --- times: what is none ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "today",
        "yesterday",
        "24-01-01",
        "2024-02-30",
        "2024-13-01",
        "01/02/2024",
        "x",
        "2024-W60-1",
        "0000-00-00 00:00:00",  # of MySQL
    ],
)
def test_a_string_that_is_no_date_is_unparsable(text):
    assert time_reasons(pa.array(["2024-01-01", text])) == ["unparsable_time"]


@pytest.mark.parametrize(
    "text", ["", "x", "1,5", "1e", "5 5", "0x10", "--5", "nan", "inf", "2024-01-01"]
)
def test_a_string_that_is_no_number_is_unparsable_when_there_is_a_unit(text):
    assert time_reasons(pa.array(["5", text]), time_unit="s") == ["unparsable_time"]


@pytest.mark.parametrize(
    ("unit", "largest"), [("s", 9_223_372_036_854), ("ms", 9_223_372_036_854_775)]
)
def test_a_time_beyond_64_bits_of_microseconds_is_out_of_range(unit, largest):
    times = pa.array([largest, largest + 1, 2 * largest, 2**63 - 1])
    checked = check_times(times, time_unit=unit)
    assert checked.bad["reason"].to_pylist() == ["time_out_of_range"] * 3
    assert checked.counts["after_run_date"] == 1


def test_an_unsigned_time_beyond_64_bits_is_a_bad_row_and_no_crash():
    checked = check_times(pa.array([5, 2**64 - 1], pa.uint64()), time_unit="us")
    assert checked.events["timestamp"].to_pylist() == [5]
    assert checked.bad.num_rows == 1


def test_a_time_before_1970_is_negative():
    assert time_reasons(pa.array([-1, 0, 1]), time_unit="s") == ["negative_time"]
    assert time_reasons(pa.array([-1, 0, 1]), time_unit="ns") == ["negative_time"]
    assert time_reasons(pa.array(["1969-12-31T23:59:59.999999Z"])) == ["negative_time"]
    assert time_reasons(pa.array([-1], pa.timestamp("ms"))) == ["negative_time"]


def test_a_column_of_nulls_has_no_time():
    assert time_reasons(pa.array([None, None], pa.string())) == ["null_time"] * 2
    assert time_reasons(pa.array([None], pa.int64()), time_unit="s") == ["null_time"]
    assert time_reasons(pa.array([None], pa.timestamp("us"))) == ["null_time"]


# --- the run date ---


def test_an_event_exactly_at_the_run_date_does_not_exist():
    times = pa.array([RUN_DATE - 1, RUN_DATE, RUN_DATE + 1])
    checked = check_times(times, time_unit="us", before=RUN_DATE)
    assert checked.events["timestamp"].to_pylist() == [RUN_DATE - 1]
    assert checked.counts == {"rows": 3, "kept": 1, "after_run_date": 2}


def test_later_events_are_counted_and_not_quarantined():
    checked = check_times(pa.array([RUN_DATE]), time_unit="us", before=RUN_DATE)
    assert checked.bad.num_rows == 0
    assert checked.counts["after_run_date"] == 1


def test_months_may_be_named_in_other_languages_in_the_short_form_or_the_long_one():
    texts = pa.array(["1. Januar 2024", "1. Jan. 2024", "1. janv. 2024", "1. January 2024"])
    for layout in ("%d. %B %Y", "%d. %b. %Y"):
        assert kept_times(texts, time_format=[layout]) == [NEW_YEAR] * 4
