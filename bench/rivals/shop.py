"""A small shop for images, as one writes it in an afternoon: what its web process and its workers do.

Credits are taken and the order is stored in one transaction; after it a task is sent. The worker calls the provider,
puts the original and two thumbnails into the bucket, and marks the order as done. There is no outbox, no refund and no
audit: an order whose task was not sent stays queued, and what a worker dies with is done, and paid for, again.
"""

import base64
import threading
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from typing import Any, Final
from uuid import UUID

import boto3
import httpx
import obstore
import orjson
import thumbhash
from botocore.config import Config
from obstore.store import S3Store
from PIL import Image
from psycopg_pool import ConnectionPool
from pydantic_settings import BaseSettings

THUMBNAIL_PX: Final = (768, 256)
THUMBHASH_PX: Final = 64
CACHE: Final = "private, max-age=31536000, immutable"


class Settings(BaseSettings):
    database_url: str
    amqp_url: str = ""
    provider_url: str
    queue: str = "images"
    s3_client: str = "boto3"
    """Or obstore, which few know, and which takes far less of the processor."""
    s3_endpoint_url: str
    aws_region: str
    aws_access_key_id: str
    aws_secret_access_key: str
    bucket: str = "shop"


class Bucket:
    """Puts objects by boto3, as nearly everybody does."""

    def __init__(self, settings: Settings) -> None:
        config = Config(
            max_pool_connections=32,
            s3={"addressing_style": "path"},
            # The payload is signed already; a second sum over it would only cost time.
            request_checksum_calculation="when_required",
            retries={"mode": "standard", "max_attempts": 3},
        )
        self._name = settings.bucket
        self._s3 = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.aws_region,
            aws_access_key_id=settings.aws_access_key_id,
            aws_secret_access_key=settings.aws_secret_access_key,
            config=config,
        )

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self._s3.put_object(
            Bucket=self._name,
            Key=key,
            Body=data,
            ContentType=content_type,
            CacheControl=CACHE,
            ServerSideEncryption="AES256",
        )


def fast_store(settings: Settings) -> S3Store:
    return S3Store(
        settings.bucket,
        endpoint=settings.s3_endpoint_url,
        region=settings.aws_region,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key,
        virtual_hosted_style_request=False,
        server_side_encryption="AES256",
        client_options={"allow_http": True},
    )


class FastBucket:
    """Puts objects by obstore."""

    def __init__(self, settings: Settings) -> None:
        self._store = fast_store(settings)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        attributes = {"Content-Type": content_type, "Cache-Control": CACHE}
        obstore.put(self._store, key, data, attributes=attributes, use_multipart=False)


class Shop:
    """The pools of one process; each is made when it is first used, and so after a fork."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._making = threading.RLock()

    @cached_property
    def pool(self) -> ConnectionPool:
        return ConnectionPool(self._settings.database_url, min_size=1, max_size=16, open=True)

    @cached_property
    def http(self) -> httpx.Client:
        headers = {"Authorization": "Bearer any"}
        return httpx.Client(base_url=self._settings.provider_url, headers=headers, timeout=180, trust_env=False)

    @cached_property
    def bucket(self) -> Bucket | FastBucket:
        return {"boto3": Bucket, "obstore": FastBucket}[self._settings.s3_client](self._settings)

    def ready(self) -> "Shop":
        """Make what is missing, in one thread only."""
        with self._making:
            _ = self.pool, self.http, self.bucket
        return self

    # --- The web process ----------------------------------------------------------------------------------------------

    def take(self, order_id: UUID, key: str, prompt: str, side: int) -> bool:
        """Take the credit and store the order; tell whether there was one."""
        with self.pool.connection() as connection:
            paid = connection.execute(
                "update accounts set credits = credits - 1 where key_hash = %s and credits >= 1 returning user_id",
                [sha256(key.encode()).digest()],
            ).fetchone()
            if paid is None:
                return False
            connection.execute(
                "insert into orders (id, user_id, prompt, side) values (%s, %s, %s, %s)",
                [order_id, paid[0], prompt, side],
            )
        return True

    def find(self, order_id: UUID, key: str) -> dict[str, Any] | None:
        with self.pool.connection() as connection:
            found = connection.execute(
                "select o.status, o.keys from orders o join accounts a using (user_id)"
                " where o.id = %s and a.key_hash = %s",
                [order_id, sha256(key.encode()).digest()],
            ).fetchone()
        return found and {"id": str(order_id), "status": found[0], "keys": found[1]}

    # --- The worker ---------------------------------------------------------------------------------------------------

    def make(self, order_id: str) -> None:
        """Make an order's image; a task that comes again finds it done."""
        with self.pool.connection() as connection:
            order = connection.execute(
                "update orders set status = 'running', started_at = now() where id = %s and status <> 'done'"
                " returning user_id, prompt, side",
                [order_id],
            ).fetchone()
        if order is None:
            return
        user_id, prompt, side = order
        original = self._call(order_id, prompt, side)
        thumbnails, tiny = small_versions(original)
        keys = self._put(f"users/{user_id}/{order_id}", original, thumbnails)
        with self.pool.connection() as connection:
            connection.execute(
                "update orders set status = 'done', done_at = clock_timestamp(), keys = %s, bytes = %s, thumbhash = %s"
                " where id = %s",
                [keys, len(original), tiny, order_id],
            )

    def _call(self, order_id: str, prompt: str, side: int) -> bytes:
        body = {"model": "emulator/any", "prompt": prompt, "size": f"{side}x{side}", "session_id": order_id}
        answer = self.http.post("/api/v1/images", json=body).raise_for_status()
        return base64.b64decode(orjson.loads(answer.content)["data"][0]["b64_json"])

    def _put(self, prefix: str, original: bytes, thumbnails: dict[int, bytes]) -> list[str]:
        objects = {f"{prefix}.png": (original, "image/png")}
        objects |= {f"{prefix}_{px}.webp": (data, "image/webp") for px, data in thumbnails.items()}
        for key, (data, content_type) in objects.items():
            self.bucket.put(key, data, content_type)
        return list(objects)


def small_versions(original: bytes) -> tuple[dict[int, bytes], str]:
    """Return the same thumbnails as Pixorly's, with Pillow's same settings, and the same thumbhash."""
    image = Image.open(BytesIO(original)).convert("RGB")
    thumbnails: dict[int, bytes] = {}
    encoded = b""
    for px in THUMBNAIL_PX:
        size = fitted(image.size, px)
        if size != image.size or not encoded:
            image = image.resize(size, Image.Resampling.HAMMING)
            file = BytesIO()
            image.save(file, "WEBP", quality=80, method=2)
            encoded = file.getvalue()
        thumbnails[px] = encoded
    size = fitted(image.size, THUMBHASH_PX)
    tiny = image.resize(size, Image.Resampling.HAMMING).convert("RGBA")
    return thumbnails, base64.b64encode(thumbhash.rgba_to_thumb_hash(*size, tiny.tobytes())).decode()


def fitted(size: tuple[int, int], px: int) -> tuple[int, int]:
    scale = min(1.0, px / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


shop = Shop()
