"""The api's settings, of its HTTP process and of its worker."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator

from pixorly.settings import AmqpSettings, LedgerClientSettings, Names, ProcessSettings, StorageSettings


class ApiSettings(ProcessSettings, AmqpSettings, StorageSettings, LedgerClientSettings):
    """What the api takes."""

    api_database_url: SecretStr
    api_database_connections: int = Field(default=10, ge=2)
    admin_key: SecretStr = SecretStr("")
    """The key to `/admin/v1`; without one, only API keys with the scope `admin` open it."""
    admin_key_also: SecretStr = SecretStr("")
    """Another one that opens it, too: the old one or the new one, while it is changed."""
    models_file: Path | None = None
    """Another model catalogue than the one that ships."""
    generator_url: str = "http://127.0.0.1:8082"
    """Where the generator tells what provider calls cost; with the token of those who call the ledger."""
    books_timeout_s: float = Field(default=600, gt=0)
    """How long a report or an audit may be silent: they read whole tables."""
    credit_usd: Decimal = Field(default=Decimal("0.01"), gt=0)
    """What a credit is sold for, in US dollars: for the operator's report of revenue and margin."""
    providers: Names | None = None
    """The providers whose models are on offer, with commas between them: those that the generator has keys for; all if
    nothing is said."""

    body_max_bytes: int = Field(default=65_536, ge=1024)
    prompt_max_chars: int = Field(default=4000, ge=1, le=32_000)
    """The longest prompt, in code points; the body's limit bounds its bytes."""
    wait_max_s: float = Field(default=60, ge=0)
    """The longest that `Prefer: wait=N` may hold a request."""
    watch_poll_s: float = Field(default=0.1, gt=0)
    """How often a process looks at the jobs that clients wait for while RabbitMQ brings no hints: one query for all."""
    stream_keepalive_s: float = Field(default=15, gt=0)
    quote_ttl_s: float = Field(default=600, gt=0, le=86_400)
    """How long a quoted price is kept to."""
    openai_default_model: str | None = Field(default=None, max_length=128)
    """What `/openai/v1` makes images with where a request names no model, or one of OpenAI's that is not on offer here;
    the catalogue's first where nothing is said."""
    openai_answer_max_bytes: int = Field(default=67_108_864, ge=0)
    """How many bytes of images an answer of `/openai/v1` holds; what does not fit comes as a link."""
    openai_reads_at_once: int = Field(default=8, ge=1)
    """How many images a process reads from the bucket at once, for answers of `/openai/v1`."""
    stream_token_ttl_s: float = Field(default=300, gt=0, le=86_400)
    """How long a stream token opens streams."""
    cors_origins: Names = ()
    """The origins whose pages may call the api from a browser, with commas between them; `*` is any."""

    oidc_issuer: str | None = None
    """Whose tokens open the api besides API keys: an OpenID provider, by the address that stands in its tokens."""
    oidc_audience: str | None = None
    """What the tokens must be for; has to be set where an issuer is."""
    oidc_jwks_url: str | None = None
    """Where the issuer's keys are; its discovery document tells where this is not set."""
    oidc_plan_claim: str | None = None
    """The claim that names the plan of an account that is opened on its user's first call."""
    oidc_leeway_s: float = Field(default=30, ge=0, le=60)
    """By how much the issuer's clock may differ from ours."""
    requests_per_minute: int = Field(default=0, ge=0)
    """How many requests each API key may make, over all processes; 0 is any number."""
    jobs_at_once: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: {"free": 2, "pro": 20, "enterprise": 200}
    )
    """JSON: by plan, how many jobs a user may have under way; any number where nothing is said, or 0."""
    failed_auth_per_minute: int = Field(default=60, ge=0)
    """How many requests without a valid key one address may make before it is told to wait; 0 is any number."""

    job_deadline_s: int = Field(default=1800, ge=1)
    """When a job that is not settled ends as `deadline_exceeded`; a request may ask for less."""
    intent_ttl_s: float = Field(default=60, gt=0)
    """How old an intent may get before it is abandoned and its charge voided."""
    intent_claim_s: float = Field(default=10, gt=0)
    """How long one request keeps others with its idempotency key away: longer than its call of the ledger takes."""
    idempotency_ttl_s: float = Field(default=86_400, gt=0)
    client_retry_ttl_s: float = Field(default=600, gt=0)
    """How long a repeat that an OpenAI client announces (`x-stainless-retry-count`) finds the job of its first try."""

    sweep_interval_s: float = Field(default=2, gt=0)
    """How often jobs past their deadline and old intents are looked for."""
    reconcile_interval_s: float = Field(default=30, gt=0)
    """How often jobs and deletions without news are looked for."""
    audit_interval_s: float = Field(default=60, gt=0)
    """How often the ledger is asked for charges that should not be open any more."""
    nudge_after_s: float = Field(default=120, gt=0)
    """After how long without news an open job's events are published again; each time after twice as long."""
    charge_overdue_s: float = Field(default=120, gt=0)
    """How old a charge is at least before it is looked at; more than an intent can live."""
    delete_again_after_s: float = Field(default=3600, gt=0)
    """After how long a deletion is sent once more; from then on after twice as long, until it is confirmed."""

    prompt_retention_days: int = Field(default=0, ge=0)
    """How many days after its settlement a job keeps its prompt; 0 is for ever."""

    cloudfront_domain: str | None = Field(
        default=None, validation_alias=AliasChoices("cloudfront_domain", "AWS_CLOUDFRONT_DOMAIN")
    )
    """The CDN in front of the bucket; links are presigned S3 links where none is set."""
    cloudfront_key_pair_id: str | None = Field(
        default=None, validation_alias=AliasChoices("cloudfront_key_pair_id", "AWS_CLOUDFRONT_KEY_PAIR_ID")
    )
    cloudfront_private_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("cloudfront_private_key", "AWS_CLOUDFRONT_PRIVATE_KEY")
    )
    """An RSA key as PEM; a backslash and an n may stand for each end of a line."""
    s3_public_endpoint_url: str | None = None
    """Where clients reach the object store, for presigned links, if that is not where the services do."""
    link_ttl_s: int = Field(default=3600, ge=60, le=604_800)
    """How long a link to a private image is good where a request asks for nothing else."""

    @model_validator(mode="after")
    def _tokens_are_for_somebody(self) -> Self:
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("PIXORLY_OIDC_AUDIENCE must be set where PIXORLY_OIDC_ISSUER is")
        return self
