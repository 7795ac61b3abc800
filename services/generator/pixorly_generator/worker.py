"""The generator's process: builds everything."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from pixorly import catalogue, health, service
from pixorly.blobs import S3Blobs
from pixorly.broker import Publisher
from pixorly.db import Database, migrate
from pixorly.delivery import Consumer, Subscription
from pixorly.health import Check
from pixorly.http import Observed
from pixorly.outbox import Outbox
from pixorly.tokens import Tokens
from pixorly.topology import queue_named
from pixorly_generator import account, handlers
from pixorly_generator.calls import Calls
from pixorly_generator.intake import Intake
from pixorly_generator.pauses import Pauses
from pixorly_generator.providers import ImageProvider
from pixorly_generator.providers.breaker import Gates
from pixorly_generator.providers.http import HttpOptions
from pixorly_generator.providers.openai import OpenAI
from pixorly_generator.providers.openrouter import OpenRouter
from pixorly_generator.providers.sandbox import Sandbox
from pixorly_generator.routes import routes
from pixorly_generator.settings import GeneratorSettings
from pixorly_generator.upstream import Upstream


def make_providers(settings: GeneratorSettings) -> dict[str, ImageProvider]:
    """Return the providers that there are keys for, by name; the sandbox needs none."""
    # A job makes at most ten calls; connections are opened only when they are needed.
    concurrency = 10 * settings.generator_concurrency
    http = HttpOptions(concurrency=concurrency, max_body_bytes=settings.provider_body_max_bytes)
    providers: list[ImageProvider] = [Sandbox(latency_s=settings.sandbox_latency_s)]
    if settings.openrouter_api_key:
        gates = Gates("openrouter", limits=settings.model_limits)
        key = settings.openrouter_api_key.get_secret_value()
        providers.append(OpenRouter(key, base_url=settings.openrouter_base_url, http=http, gates=gates))
    if settings.openai_api_key:
        gates = Gates("openai", limits=settings.model_limits)
        key = settings.openai_api_key.get_secret_value()
        providers.append(OpenAI(key, base_url=settings.openai_base_url, http=http, gates=gates))
    return {provider.name: provider for provider in providers}


def subscriptions(calls: Calls, concurrency: int) -> list[Subscription]:
    """Return what this process listens to."""
    return [
        Subscription(
            queue=queue_named("generator.generate_image"),
            handler=partial(handlers.generate_image, calls),
            on_failure=partial(handlers.give_up, calls),
            stage="generate",
            prefetch=concurrency,
        ),
        Subscription(queue=queue_named("generator.close_job"), handler=partial(handlers.close_job, calls)),
    ]


def build(settings: GeneratorSettings) -> FastAPI:
    """Return the process as an app whose lifespan runs it."""
    database = Database(settings.generator_database_url.get_secret_value())
    publisher = Publisher(settings, "generator")
    outbox = Outbox(database, publisher)
    blobs = S3Blobs(settings)
    providers = make_providers(settings)
    intake = Intake(settings.generator_images_to_store)
    calls = Calls(
        outbox,
        blobs,
        Upstream(
            providers, catalogue.load(settings.models_file), Pauses(database), timeout_s=settings.provider_timeout_s
        ),
        intake,
        lease_s=settings.lease_s,
        ladder_s=settings.retry_delays_s,
    )
    consumer = Consumer(settings, "generator", publisher, subscriptions(calls, settings.generator_concurrency))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await migrate(settings.generator_database_url.get_secret_value(), "pixorly", "pixorly_generator")
            await database.open()
            stack.push_async_callback(database.close)
            for provider in providers.values():
                stack.push_async_callback(provider.close)
            await publisher.start()
            stack.push_async_callback(publisher.close)
            accounts = [provider for provider in providers.values() if isinstance(provider, OpenRouter)]
            looking = intake.keep_looking(partial(consumer.waiting_in, queue_named("uploader.store_image")))
            loops = outbox.relay(), calls.renew(), account.keep_asking(accounts), looking
            await stack.enter_async_context(service.background(*loops))
            stack.push_async_callback(outbox.drain)
            stack.push_async_callback(calls.drain, settings.shutdown_grace_s)
            await consumer.start()
            stack.push_async_callback(consumer.stop, settings.shutdown_grace_s)
            stack.push_async_callback(intake.close)
            yield

    app = FastAPI(title="Pixorly generator", lifespan=lifespan, openapi_url=None)
    checks = [
        Check("postgres", database.ping),
        Check("rabbitmq", consumer.probe),
        Check("s3", blobs.probe),
    ]
    app.include_router(health.routes(checks))
    if tokens := Tokens(settings.service_token, settings.service_token_also):
        app.include_router(routes(database, tokens))
        app.add_middleware(Observed)
    return app


def main() -> None:
    """Run the generator."""
    settings = GeneratorSettings.load()
    service.run(build(settings), "generator", settings)


if __name__ == "__main__":
    main()
