"""What types of events say: codes, weights, targets, what is seen."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typed_events import CART, PURCHASE, TYPES, VIEW, typed

from diffsasrec.config.data import EventTypeConfig
from diffsasrec.event_types import STEP, EventTypes
from diffsasrec.typed_events import concat, take, weights_of


def test_codes_are_by_weight_then_name_and_not_by_the_order_in_a_file():
    other = EventTypes.of({"view": VIEW, "purchase": PURCHASE, "cart": CART})
    assert other == TYPES and TYPES.names == ("view", "cart", "purchase")
    same = EventTypes.of({"b": PURCHASE, "a": PURCHASE})
    assert same.names == ("a", "b")


def test_events_have_the_weights_and_uses_of_their_types():
    events = typed([2, 0, 1])
    assert events.weights().tolist() == [1.0, 0.25, 0.5]
    assert events.are_targets().tolist() == [True, False, False]
    assert events.are_seen().tolist() == [True, False, True]
    assert weights_of(None) is None


def test_weights_are_multiples_of_a_step_so_that_sums_are_exact():
    types = EventTypes.of({"a": EventTypeConfig(weight=0.1), "b": EventTypeConfig(weight=1e-6)})
    assert all((weight / STEP).is_integer() for weight in types.weights)
    assert types.weights == pytest.approx((STEP, 0.1), abs=STEP)
    tenth = types.weights[1]
    assert sum([tenth] * 1000) == 1000 * tenth


def test_lists_ask_for_the_heaviest_target():
    assert TYPES.asked == 2
    heavy_view = EventTypes.of({"view": EventTypeConfig(weight=5, target=False), "buy": PURCHASE})
    assert heavy_view.names[heavy_view.asked] == "buy"


def test_events_are_taken_and_put_together_with_their_types():
    whole = concat([typed([0, 1]), typed([2])])
    assert whole is not None and whole.codes.tolist() == [0, 1, 2]
    last = take(whole, slice(1, None))
    assert last is not None and last.codes.tolist() == [1, 2] and last.types == TYPES
    assert take(None, slice(0, 1)) is None and concat([None, None]) is None


def test_a_table_carries_what_its_codes_mean(tmp_path):
    schema = pa.schema([("types", pa.list_(pa.int8()))], TYPES.in_metadata())
    pq.write_table(schema.empty_table(), tmp_path / "t.parquet")
    assert EventTypes.in_schema(pq.read_table(tmp_path / "t.parquet").schema.metadata) == TYPES
    assert EventTypes.in_schema(None) is None
    assert EventTypes.from_json(TYPES.to_json()) == TYPES
