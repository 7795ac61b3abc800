"""How to reach the three servers."""

from dataclasses import dataclass, field
from typing import Self

from pydantic import SecretStr

from pixorly.settings import StorageSettings


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach an object store.

    Attributes:
        endpoint_url: Its address, or None for Amazon's own.
        bucket: The bucket of this stack.
    """

    endpoint_url: str | None
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    bucket: str

    @classmethod
    def of(cls, settings: StorageSettings) -> Self:
        """Return how to reach the object store of some settings."""
        key, secret = settings.aws_access_key_id, settings.aws_secret_access_key
        return cls(
            endpoint_url=settings.s3_endpoint_url,
            region=settings.aws_region,
            access_key_id=key.get_secret_value() if key else "",
            secret_access_key=secret.get_secret_value() if secret else "",
            bucket=settings.aws_s3_bucket,
        )

    def settings(self, bucket: str | None = None) -> StorageSettings:
        """Return it as the services' settings, with another bucket where one is given."""
        return StorageSettings(
            s3_endpoint_url=self.endpoint_url,
            aws_region=self.region,
            # Without keys it is AWS, with the identity that this machine has there.
            aws_access_key_id=SecretStr(self.access_key_id) if self.access_key_id else None,
            aws_secret_access_key=SecretStr(self.secret_access_key) if self.secret_access_key else None,
            aws_s3_bucket=bucket or self.bucket,
        )

    def environment(self) -> dict[str, str]:
        """Return it in the names that the services read."""
        given = {
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_S3_BUCKET": self.bucket,
        }
        if self.endpoint_url:
            given["PIXORLY_S3_ENDPOINT_URL"] = self.endpoint_url
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the three servers, as someone who may do everything there.

    Attributes:
        database_url: PostgreSQL, with a role that may make roles and databases.
        amqp_url: RabbitMQ, with a user that may do everything.
        management_url: RabbitMQ's management API, with that user in it.
        s3: The object store.
    """

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    management_url: str = field(repr=False)
    s3: S3Access
