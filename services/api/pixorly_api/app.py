"""The api's HTTP process: builds everything."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from pixorly import catalogue, health, service
from pixorly.blobs import S3Blobs, s3_client
from pixorly.broker import Publisher
from pixorly.db import Database, migrate
from pixorly.health import Check
from pixorly.outbox import Outbox
from pixorly_api.auth import Auth, Members
from pixorly_api.creation import Creation, Windows
from pixorly_api.dead import DeadLetters
from pixorly_api.edge import Edge
from pixorly_api.erasures import Erasures
from pixorly_api.graveyard import AmqpGraveyard
from pixorly_api.hints import Hints
from pixorly_api.images import Images
from pixorly_api.inventory import StorageAudit
from pixorly_api.jobs import Jobs
from pixorly_api.ledger import HttpLedger, Ledger
from pixorly_api.limits import Limits
from pixorly_api.links import Cdn, CloudFront, Links, Presigned
from pixorly_api.live import Watcher
from pixorly_api.oidc import Issuer, Oidc
from pixorly_api.parts import Parts
from pixorly_api.pauses import Pauses
from pixorly_api.pictures import Pictures
from pixorly_api.problems import MEDIA_TYPE, REQUEST_ID, answer_errors
from pixorly_api.provider_calls import HttpProviderCalls
from pixorly_api.rates import Rates
from pixorly_api.records import Records
from pixorly_api.routes import account, admin, books, dead, generations, images, openai, quotes, streams
from pixorly_api.settings import ApiSettings

_VERSION: Final = "0.1.0"
_FIRST_ERROR: Final = 400
_PREFLIGHT_S: Final = 7200
_EXPOSED: Final = (
    "Idempotent-Replayed",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    REQUEST_ID,
)
"""What a page's script may read of an answer's headers."""
_DESCRIPTION: Final = """Turns a prompt into stored, paid-for, deliverable images.

Every error is a problem body (RFC 9457) with a stable `code`; `GET /v1/outcomes` says what each means and who pays."""


def make_app(settings: ApiSettings, **more: Any) -> FastAPI:
    """Return the routes, the edge and the errors; who serves them puts the `Parts` into `app.state.parts`."""
    app = FastAPI(
        title="Pixorly",
        version=_VERSION,
        description=_DESCRIPTION,
        # A slash too many is not found, rather than sent elsewhere with its key.
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        **more,
    )
    for module in (generations, quotes, streams, images, account, admin, books, dead, openai):
        app.include_router(module.router)
    app.add_middleware(Edge, body_max_bytes=settings.body_max_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer", REQUEST_ID),
            expose_headers=_EXPOSED,
            max_age=_PREFLIGHT_S,
        )
    answer_errors(app)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Have OpenAPI say that errors come as problem bodies."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            operations = [operation for path in schema["paths"].values() for operation in path.values()]
            for operation in operations:
                for status, response in operation["responses"].items():
                    if int(status) >= _FIRST_ERROR:
                        response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
            app.openapi_schema = schema
        return app.openapi_schema

    # FastAPI's documented way; a plain assignment to a method is not typed.
    setattr(app, "openapi", openapi)  # noqa: B010


async def make_links(settings: ApiSettings, stack: AsyncExitStack) -> Links:
    """Return what makes links: signed by CloudFront where there is a key for it, else by S3."""
    domain, key = settings.cloudfront_domain, settings.cloudfront_private_key
    private: Links
    if domain and key and settings.cloudfront_key_pair_id:
        private = CloudFront(domain, settings.cloudfront_key_pair_id, key.get_secret_value(), ttl_s=settings.link_ttl_s)
    else:
        public = settings.s3_public_endpoint_url or settings.s3_endpoint_url
        blobs = S3Blobs(settings.model_copy(update={"s3_endpoint_url": public}))
        client = await stack.enter_async_context(s3_client(settings, public))
        private = Presigned(blobs, client, settings.aws_s3_bucket, ttl_s=settings.link_ttl_s)
    return Cdn(domain, private) if domain else private


def members_of(settings: ApiSettings, ledger: Ledger, stack: AsyncExitStack) -> Members | None:
    """Return what tells the users of an identity provider; None where there is none."""
    if not settings.oidc_issuer or not settings.oidc_audience:
        return None
    issuer = Issuer(
        settings.oidc_issuer,
        settings.oidc_audience,
        jwks_url=settings.oidc_jwks_url,
        plan_claim=settings.oidc_plan_claim,
        leeway_s=settings.oidc_leeway_s,
    )
    oidc = Oidc(issuer)
    stack.push_async_callback(oidc.close)
    return Members(oidc, ledger)


def windows_of(settings: ApiSettings) -> Windows:
    """Return how long what lasts."""
    return Windows(
        claim_s=settings.intent_claim_s,
        idempotency_ttl_s=settings.idempotency_ttl_s,
        client_retry_ttl_s=settings.client_retry_ttl_s,
        nudge_after_s=settings.nudge_after_s,
    )


def _auth(settings: ApiSettings, database: Database, members: Members | None) -> Auth:
    return Auth(
        database,
        settings.admin_key,
        admin_key_also=settings.admin_key_also,
        members=members,
        failures_per_minute=settings.failed_auth_per_minute,
    )


def build(settings: ApiSettings) -> FastAPI:
    """Return the process as an app whose lifespan runs it."""
    url = settings.api_database_url.get_secret_value()
    database = Database(url, max_size=settings.api_database_connections)
    publisher = Publisher(settings, "api")
    outbox = Outbox(database, publisher)
    ledger = HttpLedger(settings)
    provider_calls = HttpProviderCalls(settings)
    limits = Limits.of(database, ledger, settings)
    hints = Hints(settings)
    watcher = Watcher(database, poll_s=settings.watch_poll_s, hinted=hints.come)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await migrate(url, "pixorly", "pixorly.partitions", "pixorly_api")
            await database.open()
            for part in (database, ledger, provider_calls):
                stack.push_async_callback(part.close)
            await publisher.start()
            for end in (publisher.close, outbox.drain, watcher.close):
                stack.push_async_callback(end)
            await hints.start(watcher.hear)
            stack.push_async_callback(hints.close)
            images = Images.of(outbox, settings, hints.announce)
            offer = catalogue.load(settings.models_file).of(settings.providers)
            pauses = Pauses(database, provider_calls, offer)
            app.state.parts = Parts(
                settings=settings,
                database=database,
                catalogue=offer,
                pauses=pauses,
                auth=_auth(settings, database, members_of(settings, ledger, stack)),
                jobs=Jobs(outbox, delete_again_after_s=settings.delete_again_after_s, announce=hints.announce),
                records=Records(database),
                images=images,
                erasures=Erasures(database, images, ledger),
                creation=Creation(database, outbox, ledger, windows_of(settings), pauses, announce=hints.announce),
                ledger=ledger,
                links=await make_links(settings, stack),
                watcher=watcher,
                dead=DeadLetters(AmqpGraveyard(settings), database, publisher),
                limits=limits,
                rates=Rates(database, limits.requests_per_minute),
                provider_calls=provider_calls,
                inventory=StorageAudit(database, S3Blobs(settings), ledger),
                pictures=Pictures(S3Blobs(settings), settings.openai_reads_at_once),
            )
            yield

    app = make_app(settings, lifespan=lifespan)
    app.state.on_stop = watcher.stop
    checks = [
        Check("postgres", database.ping),
        Check("ledger", ledger.ping),
        # Without it jobs are taken all the same: the outbox holds their events.
        Check("rabbitmq", publisher.probe, required=False),
    ]
    app.include_router(health.routes(checks))
    return app


def main() -> None:
    """Run the api."""
    settings = ApiSettings.load()
    service.run(build(settings), "api", settings)


if __name__ == "__main__":
    main()
