"""The limit of the machine: the work that nobody can leave out, in one asyncio program without a broker or HTTP server.

It reads lines `JOBS SIDE AT_ONCE` and answers each with a line of JSON: when it began and ended.
"""

import asyncio
import base64
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from uuid import uuid4

import aiohttp
import asyncpg
import obstore
import orjson
import uvloop
from shop import CACHE, Settings, fast_store, small_versions


class Bare:
    def __init__(self, settings: Settings, pool: asyncpg.Pool, http: aiohttp.ClientSession, users: list[str]) -> None:
        self._settings = settings
        self._pool = pool
        self._http = http
        self._users = cycle(users)
        self._store = fast_store(settings)
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    async def run(self, jobs: int, side: int, at_once: int) -> dict[str, float]:
        left = iter(range(jobs))

        async def worker() -> None:
            for number in left:
                await self._make(next(self._users), f"bare {number}", side)

        began = time.time()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        return {"began": began, "ended": time.time()}

    async def _make(self, user_id: str, prompt: str, side: int) -> None:
        order_id = uuid4()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("update accounts set credits = credits - 1 where user_id = $1", user_id)
            await connection.execute(
                "insert into orders (id, user_id, prompt, side) values ($1, $2, $3, $4)",
                order_id,
                user_id,
                prompt,
                side,
            )
        body = {"model": "emulator/any", "prompt": prompt, "size": f"{side}x{side}", "session_id": str(order_id)}
        async with self._http.post(f"{self._settings.provider_url}/api/v1/images", json=body) as answer:
            text = await answer.read()
        original, thumbnails, tiny = await asyncio.get_running_loop().run_in_executor(self._threads, read, text)
        objects = {f"bare/{order_id}.png": (original, "image/png")}
        objects |= {f"bare/{order_id}_{px}.webp": (data, "image/webp") for px, data in thumbnails.items()}
        await asyncio.gather(*(self._put(key, *of) for key, of in objects.items()))
        await self._pool.execute(
            "update orders set status = 'done', done_at = now(), keys = $1, bytes = $2, thumbhash = $3 where id = $4",
            list(objects),
            len(original),
            tiny,
            order_id,
        )

    async def _put(self, key: str, data: bytes, content_type: str) -> None:
        attributes = {"Content-Type": content_type, "Cache-Control": CACHE}
        await obstore.put_async(self._store, key, data, attributes=attributes, use_multipart=False)


def read(text: bytes) -> tuple[bytes, dict[int, bytes], str]:
    original = base64.b64decode(orjson.loads(text)["data"][0]["b64_json"])
    return original, *small_versions(original)


async def leave_as_is(_: asyncpg.Connection) -> None:
    """Nothing here changes a connection's settings, so that to reset them would be a statement for nothing."""


async def main() -> None:
    settings = Settings()
    headers = {"Authorization": "Bearer any"}
    async with (
        asyncpg.create_pool(settings.database_url, min_size=4, max_size=16, reset=leave_as_is) as pool,
        aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        users = [row["user_id"] for row in await pool.fetch("select user_id from accounts order by user_id")]
        bare = Bare(settings, pool, http, users)
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(orjson.dumps(await bare.run(*map(int, line.split()))).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
