"""The ledger's process: builds everything."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from pixorly import health, service
from pixorly.broker import Publisher
from pixorly.db import Database, migrate
from pixorly.delivery import Consumer, Subscription
from pixorly.health import Check
from pixorly.tokens import Tokens
from pixorly.topology import queue_named
from pixorly_ledger import gauges, handlers
from pixorly_ledger.accounts import Accounts
from pixorly_ledger.audit import Audit
from pixorly_ledger.credits import Credits
from pixorly_ledger.door import AppWithDoor
from pixorly_ledger.problems import answer_errors
from pixorly_ledger.reports import Reports
from pixorly_ledger.routes import Ledger, add_routes
from pixorly_ledger.settings import LedgerSettings
from pixorly_ledger.statements import Statements
from pixorly_ledger.storage import Storage


def build(settings: LedgerSettings) -> AppWithDoor:
    """Return the process as an app whose lifespan runs it."""
    url = settings.ledger_database_url.get_secret_value()
    database = Database(url)
    ledger = Ledger(
        credits=Credits(database, settings.plans, max_group=settings.max_group),
        storage=Storage(database),
        accounts=Accounts(database, settings.plans, default_plan=settings.default_plan),
        statements=Statements(database),
        reports=Reports(database),
        audit=Audit(database),
    )
    publisher = Publisher(settings, "ledger")
    settles = Subscription(
        queue=queue_named("ledger.settle_job"), handler=partial(handlers.settle_job, ledger.credits), stage=None
    )
    consumer = Consumer(settings, "ledger", publisher, [settles])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await migrate(url, "pixorly.partitions", "pixorly_ledger")
            await database.open()
            stack.push_async_callback(database.close)
            await publisher.start()
            stack.push_async_callback(publisher.close)
            keeping_up = ledger.accounts.keep_up(settings.upkeep_s)
            measuring = service.keep_measuring(partial(gauges.measure, database), "the books could not be measured")
            await stack.enter_async_context(service.background(keeping_up, measuring))
            await consumer.start()
            stack.push_async_callback(consumer.stop, settings.shutdown_grace_s)
            yield

    app = AppWithDoor(title="Pixorly ledger", lifespan=lifespan, openapi_url=None)
    answer_errors(app)
    add_routes(app, ledger, Tokens(settings.service_token, settings.service_token_also))
    # Money can be taken without RabbitMQ; what settles it waits in the queue.
    checks = [Check("postgres", database.ping), Check("rabbitmq", consumer.probe, required=False)]
    app.include_router(health.routes(checks))
    return app


def main() -> None:
    """Run the ledger."""
    settings = LedgerSettings.load()
    service.run(build(settings), "ledger", settings)


if __name__ == "__main__":
    main()
