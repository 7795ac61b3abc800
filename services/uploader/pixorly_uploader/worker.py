"""The uploader's process: builds everything."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from pixorly import health, service
from pixorly.blobs import S3Blobs
from pixorly.broker import Publisher
from pixorly.budget import Budget
from pixorly.delivery import Consumer, Subscription
from pixorly.health import Check
from pixorly.topology import queue_named
from pixorly_uploader import handlers
from pixorly_uploader.cdn import Cdn, CloudFront, NoCdn
from pixorly_uploader.handlers import Uploader
from pixorly_uploader.ledger import HttpLedger
from pixorly_uploader.settings import UploaderSettings
from pixorly_uploader.workshop import Workshop


def subscriptions(uploader: Uploader) -> list[Subscription]:
    """Return what this process listens to."""
    return [
        Subscription(
            queue=queue_named("uploader.store_image"),
            handler=partial(handlers.store_image, uploader),
            on_failure=handlers.fail_image,
            stage="upload",
        ),
        Subscription(
            queue=queue_named("uploader.delete_image"),
            handler=partial(handlers.delete_image, uploader),
            on_failure=handlers.leave_image,
        ),
        Subscription(
            queue=queue_named("uploader.move_image"),
            handler=partial(handlers.move_image, uploader),
            on_failure=handlers.leave_image,
        ),
    ]


def cdn_of(settings: UploaderSettings) -> Cdn:
    """Return the CDN in front of the bucket."""
    distribution_id = settings.cloudfront_distribution_id
    return CloudFront(settings, distribution_id) if distribution_id else NoCdn()


def build(settings: UploaderSettings) -> FastAPI:
    """Return the process as an app whose lifespan runs it."""
    publisher = Publisher(settings, "uploader")
    blobs = S3Blobs(settings)
    ledger = HttpLedger(settings)
    cdn = cdn_of(settings)
    workshop = Workshop(settings.limits, settings.threads)
    uploader = Uploader(
        blobs=blobs,
        ledger=ledger,
        workshop=workshop,
        staged=Budget(settings.staged_memory_bytes),
        max_bytes=settings.image_max_bytes,
        recipe=settings.recipe,
        cdn=cdn,
    )
    consumer = Consumer(settings, "uploader", publisher, subscriptions(uploader))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(ledger.close)
            stack.callback(workshop.close)
            await cdn.open()
            stack.push_async_callback(cdn.close)
            await publisher.start()
            stack.push_async_callback(publisher.close)
            await consumer.start()
            stack.push_async_callback(consumer.stop, settings.shutdown_grace_s)
            yield

    async def rabbitmq() -> None:
        await consumer.probe()
        await publisher.probe()

    app = FastAPI(title="Pixorly uploader", lifespan=lifespan, openapi_url=None)
    app.include_router(
        health.routes([Check("rabbitmq", rabbitmq), Check("s3", blobs.probe), Check("ledger", ledger.probe)])
    )
    return app


def main() -> None:
    """Run the uploader."""
    settings = UploaderSettings.load()
    service.run(build(settings), "uploader", settings)


if __name__ == "__main__":
    main()
