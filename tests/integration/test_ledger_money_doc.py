"""The worked example of docs/money.md, played on a real PostgreSQL: the tables there are what the ledger says."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledger_world import World, ledger_world, request, settlement

from pixorly_ledger.accounts import Terms
from pixorly_ledger.rows import GrantRequest

DOC = Path(__file__).parents[2] / "docs" / "money.md"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        yield world


async def play(world: World) -> None:
    def at(month: int, day: int) -> None:
        world.clock.now = datetime(2026, month, day, tzinfo=UTC)

    at(5, 1)
    await world.accounts.put("ada", Terms(plan="free"))
    at(5, 10)
    await world.accounts.grant("ada", GrantRequest("order 1", 100, kind="purchase"))
    at(5, 12)
    await world.grant("ada", 20, grant_id="gift", days=3)
    at(5, 13)
    job = await world.charge("ada", 40, n=4)
    await world.settle(job, None, None, "content_rejected", "provider_timeout")
    at(5, 14)
    other = request("ada", 100, n=10)
    await world.credits.charge(other)
    await world.credits.settle(settlement(other, ["canceled"] * 10, world.clock.now, outcome="canceled"))
    at(6, 1)
    await world.accounts.expire_lots()
    await world.accounts.give_allowances()


def rows(pattern: str) -> list[tuple[str, ...]]:
    return re.findall(pattern, DOC.read_text(encoding="utf-8"), re.MULTILINE)


async def test_the_worked_example_is_what_the_ledger_says(world: World) -> None:
    await play(world)

    lines, _ = await world.statements.statement("ada", limit=100)
    statement = [
        (f"{line['created_at']:%-d %B}", line["kind"], str(line["amount_credits"]), str(line["balance_credits"]))
        for line in reversed(lines)
    ]
    assert statement == rows(r"^\| \d+ \| (\d+ \w+) \| (\w+) \| (-?\d+) \| (\d+) \|")
    totals = (await world.audit.run(quiet=True)).totals
    assert [(place, str(totals[f"{place}_credits"])) for place in ("issued", "available", "escrow", "revenue")] == rows(
        r"^\| (issued|available|escrow|revenue) \| (-?\d+) \|"
    )


async def test_every_check_of_the_audit_is_explained(world: World) -> None:
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    explained = set(re.findall(r"\w+", " ".join(named)))

    report = await world.audit.run()

    assert {check.name for check in report.checks} <= explained
