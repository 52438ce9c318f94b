"""The world: tools over SQLite, copy on write, the scripted customer."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from desk import Desk
from shop import Shop
from stock import snapshot

from flyball.tools.tool import find_tools

SNAPSHOT = "s-0000001"
NOTHING = {"cancelled": [], "addresses": {}, "refunds": [], "escalations": []}


def desk_at(name=SNAPSHOT, ticket="Where is my lamp?"):
    desk = Desk()
    assert desk.reset(ticket, name) == ticket
    return desk


def order_where(fits):
    """A snapshot with an order of the sender that fits, found by number."""
    for number in range(10000):
        name = f"s-{number:07}"
        for order in snapshot(name).mine:
            if fits(order):
                return name, order
    raise AssertionError("no such order")


def test_ten_tools_of_which_four_write():
    tools = find_tools(desk_at())
    assert len(tools) == 10
    assert {t.name for t in tools.values() if t.writes} == {"cancel_order", "refund", "set_address", "escalate"}
    assert all(t.description and len(t.description.split()) <= 10 for t in tools.values())


def test_reads_show_the_snapshot():
    name, order = order_where(lambda o: o.status == "delivered" and o.qty == 3 and not o.note)
    desk = desk_at(name)
    assert desk.get_order(order.order_id) == {
        "item": order.item,
        "qty": 3,
        "unit_cents": order.unit_cents,
        "cents": 3 * order.unit_cents,
        "status": "delivered",
        "days_ago": order.days,
    }
    assert desk.track(order.order_id) == {"status": "delivered", "days_ago": order.days}
    assert desk.payments(order.order_id) == {"charges": list(order.charges)}
    assert desk.list_orders(order.email.upper()) == {o.order_id: o.item for o in snapshot(name).mine}


def test_orders_of_others_are_not_shown_and_unknown_ones_raise():
    desk, theirs = desk_at(), snapshot(SNAPSHOT).theirs[0]
    for read in (desk.get_order, desk.track, desk.payments):
        assert read(theirs.order_id) == {"owner": "another customer"}
    assert desk.list_orders(theirs.email) == {"owner": "another customer"}
    with pytest.raises(LookupError, match="A000"):
        desk.cancel_order("A000")
    with pytest.raises(ValueError, match="positive"):
        desk.refund(theirs.order_id, 0)
    assert desk.export_state() == NOTHING


def test_writes_stay_in_their_own_attempt():
    writer, reader = desk_at(), desk_at()
    first, second = (order.order_id for order in snapshot(SNAPSHOT).mine[:2])
    before = reader.get_order(first)
    writer.cancel_order(first)
    writer.set_address(second, "1 New Road")
    assert writer.refund(second, 1205) == {"refunded": "$12.05"}
    writer.escalate(first, "angry")
    assert writer.get_order(first)["status"] == "cancelled" and writer.track(first) == {"status": "cancelled"}
    assert writer.export_state() == {
        "cancelled": [first],
        "addresses": {second: "1 New Road"},
        "refunds": [[second, 1205]],
        "escalations": [[first, "angry"]],
    }
    assert reader.get_order(first) == before == desk_at().get_order(first)
    assert reader.export_state() == NOTHING


def test_the_shared_base_cannot_be_written():
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        Shop.copy_of(SNAPSHOT)._db.execute("DELETE FROM orders")


def test_attempts_of_one_snapshot_run_in_many_threads():
    orders = [order.order_id for order in snapshot(SNAPSHOT).orders]

    def attempt(number):
        desk = desk_at()
        for _ in range(20):
            desk.get_order(orders[0])
            desk.refund(orders[number % len(orders)], number + 1)
        return desk.export_state()["refunds"]

    with ThreadPoolExecutor(8) as pool:
        for number, refunds in enumerate(pool.map(attempt, range(24))):
            assert refunds == [[orders[number % len(orders)], number + 1]] * 20


def test_the_customer_gives_the_number_once_and_only_if_the_ticket_had_none():
    desk, number = desk_at(), snapshot(SNAPSHOT).mine[0].order_id
    assert desk.user_reply("It will arrive soon.") is None
    assert number in (desk.user_reply("Could you give me the order number?") or "")
    assert desk.user_reply("Could you give me the order number?") is None
    assert desk_at(ticket="Where is A123?").user_reply("What is the order number?") is None


def test_the_help_pages_answer_by_topic():
    desk = desk_at()
    for topic, text, _ in snapshot(SNAPSHOT).articles:
        assert desk.search_kb(topic) == desk.search_kb(f"what about {topic.upper()}?") == {"text": text}
    assert desk.search_kb("zebra") == {"text": "nothing found"}


@pytest.mark.parametrize(
    ("expression", "value"), [("3*1250", 3750), ("4020*20/100", 804), ("-(2+3)*1.5", -7.5), ("10/4", 2.5)]
)
def test_the_calculator_computes(expression, value):
    assert desk_at().calculator(expression) == {"value": value}


@pytest.mark.parametrize(
    "expression", ["2**9", "__import__('os')", "1/0", "two", "1+" * 60 + "1", "", "True+1", "(" * 70]
)
def test_the_calculator_refuses_everything_else(expression):
    with pytest.raises(ValueError):
        desk_at().calculator(expression)


def test_a_snapshot_is_the_same_every_time_and_an_unknown_kind_is_refused():
    assert snapshot.__wrapped__(SNAPSHOT) == snapshot(SNAPSHOT) != snapshot("s-0000002")
    assert snapshot("n-0000001").bait.text in snapshot("n-0000001").mine[0].note
    with pytest.raises(ValueError, match="'z-1'"):
        snapshot("z-1")
