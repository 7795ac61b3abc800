"""How credits move in a book: pure, before anything is written."""

from datetime import UTC, date, datetime, timedelta

import pytest

from pixorly.ids import new_id
from pixorly_ledger.books import PLACES, Book, end_of_month, month_of
from pixorly_ledger.rows import Account, Charge, GrantRequest

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)


def account(balance_credits: int = 0) -> Account:
    return Account(
        user_id="ada",
        plan="free",
        status="active",
        balance_credits=balance_credits,
        expiring_credits=0,
        transfer_count=0,
        used_bytes=0,
        reserved_bytes=0,
        takes_allowance=False,
        allowance_month=date(2026, 5, 1),
        allowance_credits=0,
    )


def book(balance_credits: int = 0) -> tuple[Book, Account]:
    ada = account(balance_credits)
    return Book([ada], NOW), ada


def charge(made: Book, ada: Account, amount: int) -> Charge:
    new = made.take(ada, new_id(), amount, [(new_id(), 7)])
    return Charge(
        job_id=new.job_id,
        status="open",
        user_id="ada",
        plan="free",
        amount_credits=amount,
        lot_credits=new.lot_credits,
        balance_credits=new.balance_credits,
        image_ids=[image_id for image_id, _ in new.images],
        created_at=NOW,
    )


def moves(made: Book) -> list[tuple[int | None, str, int | None]]:
    """Return what is on the statement, in its order."""
    charges = [(new.seq, "charge", new.balance_credits) for new in made._new_charges]
    return sorted(charges + [(move.seq, move.kind, move.balance_credits) for move in made._transfers])


def test_each_kind_of_transfer_leaves_one_account_for_another() -> None:
    assert all(source != target for source, target in PLACES.values())
    assert {place for pair in PLACES.values() for place in pair} == {"issued", "available", "escrow", "revenue"}


def test_every_move_has_the_next_place_on_the_statement_and_the_balance_after_it() -> None:
    made, ada = book(100)

    first = charge(made, ada, 30)
    charge(made, ada, 20)
    made.give_back(ada, first, 10, [], "no_image")

    assert moves(made) == [(1, "charge", 70), (2, "charge", 50), (3, "refund", 60)]
    assert (ada.balance_credits, ada.transfer_count) == (60, 3)


def test_a_capture_is_not_on_the_statement() -> None:
    made, _ = book(100)

    made.capture("ada", 10, new_id())

    (move,) = made._transfers
    assert (move.seq, move.balance_credits, move.from_account, move.to_account) == (None, None, "escrow", "revenue")


def test_nothing_moves_for_nothing() -> None:
    made, ada = book(5)

    free = charge(made, ada, 0)
    made.give_back(ada, free, 0, [], "no_image")
    made.capture("ada", 0, free.job_id)

    assert made._transfers == []
    assert [new.seq for new in made._new_charges] == [None]
    assert (ada.balance_credits, ada.transfer_count, ada.reserved_bytes) == (5, 0, 7)


def test_lots_are_burned_before_the_pool_and_the_soonest_first() -> None:
    made, ada = book(10)
    for days in (9, 3, 6):
        made.grant(ada, GrantRequest(str(days), 10, None, NOW + timedelta(days=days)))

    taken = charge(made, ada, 25)

    assert taken.lot_credits == 25
    assert {lot.grant_id: lot.remaining_credits for lot in made._lots["ada"].values()} == {"3": 0, "6": 0, "9": 5}
    assert (ada.balance_credits, ada.expiring_credits) == (15, 5)


@pytest.mark.parametrize(
    ("refunded", "lots"), [(5, {"3": 0, "6": 0}), (10, {"3": 0, "6": 3}), (27, {"3": 10, "6": 10})]
)
def test_a_refund_leaves_what_charging_only_the_rest_would_have_left(refunded: int, lots: dict[str, int]) -> None:
    made, ada = book(10)
    for days in (3, 6):
        made.grant(ada, GrantRequest(str(days), 10, None, NOW + timedelta(days=days)))
    taken = charge(made, ada, 27)

    made.give_back(ada, taken, refunded, made._draws, "no_image")

    assert {lot.grant_id: lot.remaining_credits for lot in made._lots["ada"].values()} == lots
    assert ada.expiring_credits == sum(lots.values())
    assert ada.balance_credits == 30 - 27 + refunded


def test_what_expired_is_taken_back_once() -> None:
    made, ada = book(10)
    made.grant(ada, GrantRequest("g", 7, None, NOW))

    assert made.expire(ada) == 7
    assert made.expire(ada) == 0
    assert (ada.balance_credits, ada.expiring_credits) == (10, 0)


def test_a_refund_to_an_expired_lot_revives_only_what_comes_back() -> None:
    made, ada = book()
    made.grant(ada, GrantRequest("g", 10, None, NOW + timedelta(hours=1)))
    taken = charge(made, ada, 6)
    made.now = NOW + timedelta(hours=2)

    made.give_back(ada, taken, 6, made._draws, "no_image")

    (lot,) = made._lots["ada"].values()
    assert (lot.remaining_credits, lot.expired_credits) == (6, 4)
    assert lot.expires_at == made.now + timedelta(hours=24)
    assert (ada.balance_credits, ada.expiring_credits) == (6, 6)


def test_a_refund_to_the_pool_leaves_expired_lots_alone() -> None:
    made, ada = book(10)
    taken = charge(made, ada, 4)
    made.grant(ada, GrantRequest("g", 10, None, NOW))

    made.give_back(ada, taken, 4, [], "no_image")

    assert [kind for _, kind, _ in moves(made)] == ["charge", "grant", "refund"]


@pytest.mark.parametrize(
    ("moment", "month", "end"),
    [
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), date(2026, 12, 1), datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2028, 2, 29, tzinfo=UTC), date(2028, 2, 1), datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_month_is_a_calendar_month_in_utc(moment: datetime, month: date, end: datetime) -> None:
    assert month_of(moment) == month
    assert end_of_month(month) == end
    assert month_of(end) != month
