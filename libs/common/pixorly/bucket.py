"""The set-up of the bucket: encryption, no public access, what expires by itself, and who may read it from a page.

Each step is a call of S3's API that AWS, SeaweedFS and MinIO know, or say that they do not: then the step says so and
the next one follows. A repeat changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from pixorly.blobs import s3_client
from pixorly.errors import OutageError
from pixorly.keys import STAGING
from pixorly.settings import StorageSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_NOT_KNOWN: Final = frozenset({"NotImplemented", "MethodNotAllowed", "XNotImplemented", "501", "405"})
_NOT_READ: Final = frozenset({"MalformedXML", "InvalidRequest", "InvalidArgument"})
_NOT_THERE: Final = frozenset({"404", "NoSuchBucket"})
_WITHIN_S: Final = 60.0
_READ_FROM_A_PAGE_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one step.

    Attributes:
        known: Whether the server knows such a thing.
        words: For a person.
    """

    known: bool
    words: str


async def ensure_bucket(settings: StorageSettings) -> list[Done]:
    """Make the bucket and its rules, and return what became of each step. A repeat changes nothing.

    Raises:
        OutageError: The object store is away or refused a step.
    """
    bucket = settings.aws_s3_bucket
    steps = (_encrypt, _block_public_access, _expire, _allow_pages)
    try:
        async with asyncio.timeout(_WITHIN_S), s3_client(settings) as client:
            done = [Done(known=True, words=f"made the bucket {bucket}")] if await _create(client, settings) else []
            done += [await step(client, settings) for step in steps]
    except (BotoCoreError, ClientError, OSError) as error:
        raise OutageError("s3", f"The bucket {bucket} could not be set up: {error}") from error
    return done


async def _create(client: "S3Client", settings: StorageSettings) -> bool:
    try:
        await client.head_bucket(Bucket=settings.aws_s3_bucket)
    except ClientError as error:
        if _code(error) not in _NOT_THERE:
            raise
    else:
        return False
    if settings.aws_region == "us-east-1":
        await client.create_bucket(Bucket=settings.aws_s3_bucket)
    else:
        region: Any = {"LocationConstraint": settings.aws_region}
        await client.create_bucket(Bucket=settings.aws_s3_bucket, CreateBucketConfiguration=region)
    return True


async def _encrypt(client: "S3Client", settings: StorageSettings) -> Done:
    if settings.s3_sse == "none":
        return Done(known=True, words="no encryption by the store is asked for")
    default: dict[str, str] = {"SSEAlgorithm": settings.s3_sse}
    if settings.s3_kms_key_id:
        default["KMSMasterKeyID"] = settings.s3_kms_key_id
    rules: Any = {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}
    return await _tried(
        settings,
        lambda: client.put_bucket_encryption(Bucket=settings.aws_s3_bucket, ServerSideEncryptionConfiguration=rules),
        f"encryption by default: {settings.s3_sse}",
        "this server does not encrypt by itself (MinIO does once it has a key); objects ask for it all the same, unless"
        " PIXORLY_S3_SSE=none",
    )


async def _block_public_access(client: "S3Client", settings: StorageSettings) -> Done:
    return await _tried(
        settings,
        lambda: client.put_public_access_block(
            Bucket=settings.aws_s3_bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        ),
        "public access blocked",
        "this server knows no block of public access; it gives nothing to the public unless a policy tells it to",
    )


async def _expire(client: "S3Client", settings: StorageSettings) -> Done:
    """Set both rules; a server that does not know the one on aborted uploads clears those up by itself."""

    def put(rules: list[dict[str, Any]]) -> Awaitable[Any]:
        configuration: Any = {"Rules": rules}
        return client.put_bucket_lifecycle_configuration(
            Bucket=settings.aws_s3_bucket, LifecycleConfiguration=configuration
        )

    staged, aborted = _rules(settings.staging_days)
    words = f"staged bytes go after {settings.staging_days} days"
    try:
        await put([staged, aborted])
    except ClientError as error:
        if settings.s3_endpoint_url is None or _code(error) not in _NOT_KNOWN | _NOT_READ:
            raise
        unknown = "this server knows no lifecycle: staged bytes stay until somebody deletes them"
        alone = await _tried(settings, lambda: put([staged]), words, unknown)
        return Done(known=False, words=f"{alone.words}; aborted uploads are the server's own to clear up")
    return Done(known=True, words=f"{words}, aborted uploads after one")


def _rules(staging_days: int) -> tuple[dict[str, Any], dict[str, Any]]:
    staged = {
        "ID": "staging",
        "Status": "Enabled",
        "Filter": {"Prefix": STAGING},
        "Expiration": {"Days": staging_days},
    }
    aborted = {
        "ID": "aborted-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    return staged, aborted


async def _allow_pages(client: "S3Client", settings: StorageSettings) -> Done:
    """Let pages of these origins read what a link leads to, with scripts too."""
    origins = list(settings.s3_cors_origins)
    if not origins:
        return Done(known=True, words="no page of another origin may read it (PIXORLY_S3_CORS_ORIGINS is empty)")
    rule: Any = {
        "ID": "read",
        "AllowedOrigins": origins,
        "AllowedMethods": ["GET", "HEAD"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "Content-Disposition"],
        "MaxAgeSeconds": _READ_FROM_A_PAGE_S,
    }
    return await _tried(
        settings,
        lambda: client.put_bucket_cors(Bucket=settings.aws_s3_bucket, CORSConfiguration={"CORSRules": [rule]}),
        f"pages may read what a link leads to, from {', '.join(origins)}",
        "this server has no CORS rules for one bucket (MinIO allows all origins unless it is told otherwise)",
    )


async def _tried(settings: StorageSettings, call: Callable[[], Awaitable[Any]], words: str, unknown: str) -> Done:
    """Make a call; another server than AWS may not know it, which is no failure."""
    try:
        await call()
    except ClientError as error:
        if settings.s3_endpoint_url is None or _code(error) not in _NOT_KNOWN:
            raise
        return Done(known=False, words=unknown)
    return Done(known=True, words=words)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
