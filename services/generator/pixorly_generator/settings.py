"""The generator's settings."""

from pydantic import AliasChoices, Field, SecretStr

from pixorly.settings import AmqpSettings, OfferSettings, ProcessSettings, StorageSettings


class GeneratorSettings(ProcessSettings, AmqpSettings, StorageSettings, OfferSettings):
    """What the generator takes."""

    generator_database_url: SecretStr
    service_token: SecretStr = SecretStr("")
    """What the api shows to read the costs; it has the same setting."""
    service_token_also: SecretStr | None = None
    """Another one that is taken, too: the old one or the new one, while it is changed."""
    generator_concurrency: int = Field(default=1280, ge=1)
    """How many messages a process works on at once, and so how many jobs: a repeated one takes a place, too. It also
    sizes the pool of provider connections."""
    generator_images_to_store: int = Field(default=512, ge=1)
    """While so many images wait for an uploader, no new call is begun; those under way go on. Best more than all
    uploaders together store while a model thinks."""
    shutdown_grace_s: float = Field(default=60, ge=0)
    """Longer than elsewhere: a call that is cut off here is paid for and must be made again."""
    lease_s: float = Field(default=20, gt=1)
    """How long a call stays reserved for a process that no longer renews it."""
    provider_timeout_s: float = Field(default=180, gt=0)
    """The longest that one provider call may take."""

    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("openai_api_key", "OPENAI_API_KEY")
    )
    openai_base_url: str = Field(
        default="https://api.openai.com/v1", validation_alias=AliasChoices("openai_base_url", "OPENAI_BASE_URL")
    )
    provider_body_max_bytes: int = Field(default=64_000_000, ge=1)
    """The largest answer of a provider that is read."""
    model_limits: dict[str, int] = Field(default_factory=dict)
    """JSON: by model, how many calls of it this process makes at once."""
    sandbox_latency_s: float = Field(default=0, ge=0)
    """How long the sandbox pretends to think about each call."""
