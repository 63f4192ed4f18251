"""Which columns hold the users, the items and the times."""

from collections.abc import Sequence

import pyarrow as pa
import pytest

from jobs.init.columns import BY_NAME, BY_PLACE, Column, Roles, columns_of, find_roles
from jobs.init.sniff.names import name_score, role_of, words_of

SECONDS = [978300760 + 3600 * n for n in range(40)]
FEW = [n % 5 for n in range(40)]
MANY = [100 + n % 17 for n in range(40)]


def roles(**columns: Sequence[object]) -> Roles:
    return find_roles(columns_of(pa.table(columns)))


def named(found: Roles) -> tuple[str, str, str]:
    assert found.user and found.item and found.time
    return found.user.column.name, found.item.column.name, found.time.column.name


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("user_id", "user"),
        ("CustomerID", "user"),
        ("visitorid", "user"),
        ("user_id:token", "user"),
        ("reviewerID", "user"),
        ("StockCode", "item"),
        ("parent_asin", "item"),
        ("event.productId", "item"),
        ("InvoiceDate", "time"),
        ("unixReviewTime", "time"),
        ("created_at", "time"),
        ("event_type", "type"),
        ("Quantity", "quantity"),
        ("overall", "rating"),
        ("Country", None),
        ("price", None),
        ("product_name", "item"),
        ("product_category_name", None),
        ("ms_played", None),
        ("context.user.id", "user"),
        ("Kundennr", "user"),
        ("Artikelnummer", "item"),
    ],
)
def test_names_in_many_spellings_tell_roles(name: str, role: str | None):
    assert role_of(name) == role


def test_words_of_a_name_are_parted_by_signs_and_capitals():
    assert words_of("lastCustomer_id") == ["last", "customer", "id"]
    assert name_score("user_id", "user") > name_score("last_customer_id", "user") > 0


def test_the_columns_of_a_shop_are_found_among_others():
    found = roles(InvoiceNo=MANY, StockCode=MANY, InvoiceDate=SECONDS, CustomerID=FEW)
    assert named(found) == ("CustomerID", "StockCode", "InvoiceDate")
    assert found.user is not None and found.user.how == BY_NAME


def test_the_item_of_a_clickstream_is_no_kind_of_event():
    kinds = ["view", "addtocart"] * 20
    found = roles(timestamp=SECONDS, visitorid=FEW, event=kinds, itemid=MANY, transactionid=MANY)
    assert named(found) == ("visitorid", "itemid", "timestamp")


def test_without_names_the_first_is_the_user_and_that_is_said():
    ratings = [1.5, 2.0] * 20
    found = roles(column_1=FEW, column_2=MANY, column_3=ratings, column_4=SECONDS)
    assert named(found) == ("column_1", "column_2", "column_4")
    assert found.user is not None and found.user.how == BY_PLACE


def test_ids_with_zeros_in_front_are_ids_and_ratings_and_keys_of_rows_are_not():
    many = 1200
    found = roles(
        column_1=list(range(many)),
        column_2=[n % 11 for n in range(many)],
        column_3=[f"u{n % 50}" for n in range(many)],
        column_4=[f"{n % 70:07}" for n in range(many)],
        column_5=[978300760 + n for n in range(many)],
    )
    assert named(found) == ("column_3", "column_4", "column_5")


def test_a_time_with_a_clock_goes_before_a_date():
    found = roles(day=["2024-01-02"] * 40, time=SECONDS, user_id=FEW, item_id=MANY)
    assert named(found) == ("user_id", "item_id", "time")
    assert found.time is not None and found.time.others == ("day",)


def test_long_texts_and_prices_are_no_ids():
    text = ["a long text of a review that goes on and on, and names nothing at all"] * 39 + ["b"]
    prices = [str(n + 0.5) for n in range(40)]
    found = roles(body=text, price=prices, user_id=FEW, time=SECONDS)
    assert found.item is None


def test_a_table_of_items_is_no_log():
    assert not roles(item_id=MANY, title=[f"title {n}" for n in range(40)]).is_log()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "22", None], "integer"),
        (["17850.0", "12", None], "float"),
        ([17850.0, None], "float"),
        (["007", "8"], None),
        (["85123A"], None),
        ([1.5], None),
        ([3, 4], "integer"),
    ],
)
def test_ids_that_are_integers_are_known_from_their_texts(values: list[object], kind: str | None):
    assert Column("id", pa.chunked_array([pa.array(values)])).number_kind == kind
