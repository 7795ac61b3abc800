"""The api's worker process: messages in, the outbox out, and the sweeps. Builds everything."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from fastapi import FastAPI

from pixorly import health, service
from pixorly.broker import Publisher
from pixorly.db import Database, migrate
from pixorly.delivery import Consumer, Subscription
from pixorly.events import ImageGenerated, JobCreated
from pixorly.health import Check
from pixorly.outbox import Outbox
from pixorly.topology import queue_named
from pixorly_api import dead, gauges, handlers
from pixorly_api.erasures import Erasures
from pixorly_api.graveyard import AmqpGraveyard
from pixorly_api.hints import Hints
from pixorly_api.images import Images
from pixorly_api.jobs import Jobs
from pixorly_api.ledger import HttpLedger
from pixorly_api.settings import ApiSettings
from pixorly_api.sweeper import Pace, Sweeper, every

_COUNT_DEAD_EVERY_S: Final = 15


def subscriptions(jobs: Jobs, images: Images) -> list[Subscription]:
    """Return what this process listens to."""
    return [
        Subscription(queue=queue_named("api.follow_job"), handler=partial(handlers.follow_job, jobs, images)),
        Subscription(
            queue=queue_named("api.settle_dead"),
            handler=partial(handlers.settle_dead, jobs),
            reads=(JobCreated, ImageGenerated),
        ),
    ]


def pace_of(settings: ApiSettings) -> Pace:
    """Return how often to sweep."""
    return Pace(
        sweep_interval_s=settings.sweep_interval_s,
        reconcile_interval_s=settings.reconcile_interval_s,
        audit_interval_s=settings.audit_interval_s,
        intent_ttl_s=settings.intent_ttl_s,
        idempotency_ttl_s=settings.idempotency_ttl_s,
        nudge_after_s=settings.nudge_after_s,
        charge_overdue_s=settings.charge_overdue_s,
        delete_again_after_s=settings.delete_again_after_s,
    )


def build(settings: ApiSettings) -> FastAPI:
    """Return the process as an app whose lifespan runs it."""
    url = settings.api_database_url.get_secret_value()
    database = Database(url, max_size=settings.api_database_connections)
    publisher = Publisher(settings, "api")
    outbox = Outbox(database, publisher)
    ledger = HttpLedger(settings)
    hints = Hints(settings)
    jobs = Jobs(outbox, delete_again_after_s=settings.delete_again_after_s, announce=hints.announce)
    images = Images.of(outbox, settings, hints.announce)
    erasures = Erasures(database, images, ledger, settings.prompt_retention_days)
    sweeper = Sweeper(database, outbox, jobs, ledger, pace_of(settings))
    consumer = Consumer(settings, "api", publisher, subscriptions(jobs, images))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await migrate(url, "pixorly", "pixorly.partitions", "pixorly_api")
            await database.open()
            stack.push_async_callback(database.close)
            stack.push_async_callback(ledger.close)
            await publisher.start()
            stack.push_async_callback(publisher.close)
            stack.push_async_callback(outbox.drain)
            await hints.start()
            stack.push_async_callback(hints.close)
            counting = dead.watch(AmqpGraveyard(settings), _COUNT_DEAD_EVERY_S)
            forgetting = every(settings.reconcile_interval_s, erasures.erase, erasures.forget_prompts)
            measuring = service.keep_measuring(partial(gauges.measure, database), "jobs could not be counted")
            await stack.enter_async_context(
                service.background(outbox.relay(), sweeper.run(), counting, measuring, forgetting)
            )
            await consumer.start()
            stack.push_async_callback(consumer.stop, settings.shutdown_grace_s)
            yield

    app = FastAPI(title="Pixorly api worker", lifespan=lifespan, openapi_url=None)
    checks = [
        Check("postgres", database.ping),
        Check("rabbitmq", consumer.probe),
        Check("ledger", ledger.ping, required=False),
    ]
    app.include_router(health.routes(checks))
    return app


def main() -> None:
    """Run the api's worker."""
    settings = ApiSettings.load()
    service.run(build(settings), "api-worker", settings)


if __name__ == "__main__":
    main()
