"""How fast the ledger charges: grouped, beside the same work done one transaction at a time, in one run.

    python bench/ledger.py [--seconds 0.5] [--rounds 9] [--quick] [--json FILE] [--at-once 1,8,64,256]
                           [--parts in-process,http,growth,audit]

It starts a PostgreSQL of its own with default durability (every commit is on disk before it is answered), in a folder
that it removes. Rates are charges a second, of one image each; a ratio is the median of the ratios of its rounds, in
each of which both ways are measured in turn.

one at a time   each charge is a transaction of its own, as many at once as there are connections (10)
grouped         what the ledger does: charges that wait share the next transaction
nothing         an endpoint of the same server that does nothing
as the api      callers of the api's own client, which sends what waits in one request
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import uvloop
from fastapi import FastAPI, Response
from http_load import post, rate
from pydantic import SecretStr

from pixorly import service
from pixorly.db import Database, migrate
from pixorly.ids import new_id
from pixorly.settings import LedgerClientSettings, ProcessSettings
from pixorly_api.ledger import HttpLedger
from pixorly_ledger import app as ledger_app
from pixorly_ledger.audit import Audit
from pixorly_ledger.credits import ChargeRequest, Credits
from pixorly_ledger.settings import PLANS, LedgerSettings
from pixorly_stack.ports import is_free
from pixorly_stack.postgres import Postgres

AT_ONCE = [1, 8, 64, 256]
ACCOUNTS = 10_000
TOKEN = "for-the-bench"  # noqa: S105 - of a server that lives for a minute
FILL = Path(__file__).with_name("ledger_fill.sql")
SETUP = """
insert into accounts (user_id, plan, takes_allowance, balance_credits, transfer_count)
    select user_id, 'enterprise', false, 1000000000, 1
    from (select 'hot' as user_id union all select 'user-' || n from generate_series(1, $1::bigint) n) as users;
"""
SETUP_GRANTS = """
with given as (insert into grants (user_id, grant_id, kind, amount_credits, balance_credits, created_at)
                   select user_id, 'bench', 'grant', 1000000000, 1000000000, now() from accounts)
insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits, balance_credits, grant_id,
                       created_at)
    select gen_random_uuid(), user_id, 1, 'grant', 'issued', 'available', 1000000000, 1000000000, 'bench', now()
    from accounts
"""

Charge = Callable[[ChargeRequest], Awaitable[Any]]


@dataclass(frozen=True)
class Effort:
    seconds: float
    rounds: int
    at_once: list[int]


def free_port() -> int:
    return next(port for port in range(26_000, 32_000) if is_free(port))


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[str]:
    server = Postgres(folder, free_port(), secrets.token_hex(8))
    command = (await server.prepare()).command
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - ours, and it starts at once
            command.argv, env=dict(command.env), cwd=command.cwd, stdout=log, stderr=log
        )
    try:
        while True:
            try:
                await (await asyncpg.connect(server.url)).close()
                break
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
        yield server.url
    finally:
        process.send_signal(2)
        process.wait()


async def make_ledger(server_url: str, name: str) -> str:
    """Make a database with the hot account and ten thousand others, and return its URL."""
    admin = await asyncpg.connect(server_url)
    await admin.execute(f"create database {name}")
    await admin.close()
    url = server_url.rpartition("/")[0] + f"/{name}"
    await migrate(url, "pixorly.partitions", "pixorly_ledger")
    connection = await asyncpg.connect(url)
    await connection.execute(SETUP.replace("$1", str(ACCOUNTS)))
    await connection.execute(SETUP_GRANTS)
    await connection.execute("vacuum analyze")
    await connection.close()
    return url


async def fill(url: str, transfers: int) -> None:
    """Add settled jobs until there are so many transfers, then let PostgreSQL tidy up as it would have by then."""
    connection = await asyncpg.connect(url)
    jobs, step = transfers // 3, 50_000
    for first in range(1, jobs + 1, step):
        await connection.execute(FILL.read_text(), first, min(first + step - 1, jobs), ACCOUNTS, timeout=600)
        progress(f"{min(first + step - 1, jobs) * 3:,} of {transfers:,} transfers")
    await connection.execute("vacuum analyze", timeout=600)
    await connection.execute("checkpoint", timeout=600)
    await connection.close()


def progress(words: str) -> None:
    print(f"  … {words}", file=sys.stderr, flush=True)


def hot() -> Iterator[str]:
    return itertools.repeat("hot")


def spread() -> Iterator[str]:
    return (f"user-{1 + n * 7919 % ACCOUNTS}" for n in itertools.count())


WAYS = {"one hot account": hot, f"{ACCOUNTS:,} accounts": spread}


async def charge_rate(charge: Charge, users: Iterator[str], at_once: int, seconds: float) -> float:
    ends = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await charge(ChargeRequest(new_id(), next(users), 1, ((new_id(), 1000),)))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return done / (time.perf_counter() - began)


async def compared(
    effort: Effort, one: Callable[[], Awaitable[float]], other: Callable[[], Awaitable[float]]
) -> dict[str, float]:
    """Return both rates and the ratio of the other to the one, from rounds that take turns.

    A round that does not count goes before: whoever is measured first would pay for what is not in memory yet.
    """
    pairs = []
    await one(), await other()
    for turn in range(effort.rounds):
        first, second = (one, other) if turn % 2 == 0 else (other, one)
        rates = [await first(), await second()]
        pairs.append(rates if turn % 2 == 0 else rates[::-1])
    ratios = [b / a for a, b in pairs]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"base_per_s": round(a), "per_s": round(b), "ratio": round(statistics.median(ratios), 2)}


async def in_process(server_url: str, effort: Effort) -> list[dict[str, Any]]:
    # Whoever waits for a connection on a busy machine is slow, not refused.
    database = Database(await make_ledger(server_url, "in_process"), acquire_timeout_s=60)
    await database.open()
    credits_ = Credits(database, PLANS)

    async def one_at_a_time(request: ChargeRequest) -> None:
        (answer,) = await credits_._charge_group([request])  # noqa: SLF001 - the work without the grouping
        if isinstance(answer, Exception):
            raise answer

    lines = []
    for accounts, users in WAYS.items():
        for at_once in effort.at_once:
            measure = partial(charge_rate, users=users(), at_once=at_once, seconds=effort.seconds)
            found = await compared(effort, partial(measure, one_at_a_time), partial(measure, credits_.charge))
            lines.append({"accounts": accounts, "at_once": at_once, **found})
            progress(f"in process, {accounts}, {at_once} at once: {found['ratio']}")
    await database.close()
    return lines


def build_server(settings: LedgerSettings) -> FastAPI:
    """Return the ledger as it is, and an endpoint that does nothing."""
    app = ledger_app.build(settings)

    @app.post("/nothing")
    async def nothing() -> Response:
        return Response(b"{}", media_type="application/json")

    # It is found first, so that nothing is nothing.
    app.router.routes.insert(0, app.router.routes.pop())
    return app


def serve(database_url: str, port: int) -> None:
    settings = LedgerSettings(
        ledger_database_url=database_url,
        service_token=TOKEN,
        amqp_url="amqp://guest:guest@127.0.0.1:1/",
        http_port=port,
        log_level="ERROR",
        shutdown_grace_s=1,
    )
    service.run(build_server(settings), "ledger", ProcessSettings(http_port=port, shutdown_grace_s=1))


@asynccontextmanager
async def server(database_url: str) -> AsyncIterator[str]:
    port = free_port()
    command = [sys.executable, __file__, "--serve", database_url, str(port)]
    process = subprocess.Popen(command)  # noqa: ASYNC220, S603 - ours, and it starts at once
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    await client.get(f"{url}/livez")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def request(path: str, users: Iterator[str]) -> bytes:
    image = {"image_id": str(new_id()), "estimate_bytes": 1000}
    body = {"job_id": str(new_id()), "user_id": next(users), "amount_credits": 1, "images": [image]}
    return post(path, orjson.dumps(body), TOKEN)


async def over_http(server_url: str, effort: Effort) -> dict[str, list[dict[str, Any]]]:
    """Compare charges with nothing: as the api makes them, and each in a request of its own."""
    lines: dict[str, list[dict[str, Any]]] = {"http": [], "http_each": []}
    async with server(await make_ledger(server_url, "over_http")) as url:
        api = HttpLedger(LedgerClientSettings(ledger_url=url, service_token=SecretStr(TOKEN)))

        async def charge(asked: ChargeRequest) -> object:
            return await api.charge(asked.job_id, asked.user_id, asked.amount_credits, asked.images)

        for accounts, users in WAYS.items():
            for at_once in effort.at_once:
                named, effects = users(), {"at_once": at_once, "seconds": effort.seconds}
                nothing, each = (
                    partial(rate, url, partial(request, path, named), **effects)
                    for path in ("/nothing", "/internal/charges")
                )
                ways = {"http": partial(charge_rate, charge, named, **effects), "http_each": each}
                for name, way in ways.items():
                    found = await compared(effort, nothing, way)
                    lines[name].append({"accounts": accounts, "at_once": at_once, **found})
                    progress(f"over HTTP, {name}, {accounts}, {at_once} at once: {found['ratio']}")
        await api.close()
    return lines


async def growth(server_url: str, effort: Effort, transfers: int) -> tuple[list[dict[str, Any]], str]:
    """Compare a ledger with a thousand transfers to one with a million; return also the large one's URL."""
    urls = [await make_ledger(server_url, name) for name in ("small", "large")]
    for url, size in zip(urls, (1_000, transfers), strict=True):
        await fill(url, size)
    databases = [Database(url) for url in urls]
    for database in databases:
        await database.open()
    small, large = (Credits(database, PLANS) for database in databases)
    lines = []
    for accounts, users in WAYS.items():
        for at_once in (1, 64):
            measure = partial(charge_rate, users=users(), at_once=at_once, seconds=effort.seconds)
            found = await compared(effort, partial(measure, small.charge), partial(measure, large.charge))
            lines.append({"accounts": accounts, "at_once": at_once, **found})
            progress(f"{transfers:,} transfers beside 1,000, {accounts}, {at_once} at once: {found['ratio']}")
    for database in databases:
        await database.close()
    return lines, urls[1]


async def audit(url: str) -> dict[str, Any]:
    database = Database(url)
    await database.open()
    began = time.perf_counter()
    report = await Audit(database).run()
    took_s = time.perf_counter() - began
    await database.close()
    off = {check.name: check.found for check in report.checks if not check.ok and not check.quiet}
    return {"transfers": report.totals["transfers"], "took_s": round(took_s, 1), "clean": report.clean, "off": off}


def table(title: str, base: str, way: str, lines: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n{'accounts':<18}{'at once':>8}{base:>20}{way:>20}{'ratio':>8}")
    for line in lines:
        rates = f"{line['base_per_s']:>18,}/s{line['per_s']:>18,}/s"
        print(f"{line['accounts']:<18}{line['at_once']:>8}{rates}{line['ratio']:>8.2f}")


TARGETS = [
    ("in_process", "one hot account", 64, 10.0, "in process, one hot account, 64 at once, grouped over one at a time"),
    ("in_process", "one hot account", 1, 0.9, "the same, one after the other"),
    (
        "http",
        "one hot account",
        64,
        0.7,
        "over HTTP as the api charges, 64 at once, over an endpoint of nothing",
    ),
    ("http_each", "one hot account", 64, 0.7, "the same, each charge in a request of its own"),
    ("growth", "one hot account", 64, 0.9, "a large ledger over one of 1,000 transfers, 64 at once"),
]
AUDIT_WITHIN_S = 30


def verdicts(results: dict[str, Any]) -> None:
    """Print what was aimed at beside what was found, and how busy the machine was."""
    print(f"\nLoad of the machine before, meanwhile, at the end: {' '.join(f'{load:.1f}' for load in results['load'])}")
    for part, accounts, at_once, target, words in TARGETS:
        for line in results.get(part, []):
            if (line["accounts"], line["at_once"]) == (accounts, at_once):
                print(f"{line['ratio']:>7.2f}  aim {target:<5}  {words}")
    if "audit" in results:
        audited = results["audit"]
        print(f"{audited['took_s']:>6.1f}s  aim {AUDIT_WITHIN_S}s    audit of {audited['transfers']:,} transfers")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    effort = Effort(options.seconds, options.rounds, options.at_once)
    folder = Path(tempfile.mkdtemp(prefix="pixorly-bench-"))
    results: dict[str, Any] = {"python": platform.python_version(), "seconds": effort.seconds, "rounds": effort.rounds}
    results["load"] = [os.getloadavg()[0]]
    try:
        async with postgres(folder) as url:
            if "in-process" in options.parts:
                results["in_process"] = await in_process(url, effort)
                table("In process", "one at a time", "grouped", results["in_process"])
            if "http" in options.parts:
                results |= await over_http(url, effort)
                table("Over HTTP, as the api charges", "nothing", "charges", results["http"])
                table("Over HTTP, each in a request of its own", "nothing", "charges", results["http_each"])
            if {"growth", "audit"} & set(options.parts):
                results["growth"], large = await growth(url, effort, options.transfers)
                table("Growth", "1,000 transfers", f"{options.transfers:,}", results["growth"])
                results["audit"] = await audit(large)
                print(f"\nAudit: {results['audit']}")
            results["load"] += os.getloadavg()[1::-1]
            verdicts(results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is made")
    parser.add_argument("--transfers", type=int, default=1_000_000, help="how many there are in the large ledger")
    parser.add_argument("--quick", action="store_true", help="half a second, one round, 30,000 transfers")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["in-process", "http", "growth", "audit"])
    parser.add_argument("--at-once", type=lambda text: [int(part) for part in text.split(",")], default=AT_ONCE)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds, options.transfers = 0.5, 1, 30_000
    results = uvloop.run(run(options))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
