"""Large states, made from one job that the system itself made: its rows and its message, again with other ids.

So what is loaded looks as the system would have left it, whatever columns there are.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import aio_pika
import asyncpg
from aio_pika.abc import AbstractIncomingMessage
from effort import progress
from world import World

STEP = 20_000
AT_ONCE = 500
IDS = """
    select n, format('%1$s-7000-8000-%2$s', $6::text, lpad(to_hex(n), 12, '0')) as job_id,
              format('%1$s-7001-8000-%2$s', $6::text, lpad(to_hex(n), 12, '0')) as image_id,
              ($5::text[])[1 + n % cardinality($5::text[])] as user_id
    from generate_series($1::bigint, $2::bigint) as n"""
CLONE = """
insert into {table}
select made.*
from (select to_jsonb(t)::text as row from {table} t where job_id = ($3::text)::uuid) as template,
     ({ids}) as new,
     jsonb_populate_record(null::{table},
         replace(replace(row, $3::text, new.job_id), $4::text, new.image_id)::jsonb
         || jsonb_build_object('user_id', new.user_id) || {other}) as made"""
"""Every column of the template's row, with the ids that stand in it replaced wherever they stand."""


@dataclass(frozen=True)
class Template:
    """A job of one image, and those to whom copies of it are given in turn."""

    job_id: str
    image_id: str
    users: Sequence[str]
    prefix: str
    """The first half of the copies' ids: a moment, as in every UUIDv7."""

    def ids(self, number: int) -> tuple[str, str, str]:
        job_id, image_id = (f"{self.prefix}-{part}-8000-{number:012x}" for part in ("7000", "7001"))
        return job_id, image_id, self.users[number % len(self.users)]


async def clone(url: str, tables: Mapping[str, str], template: Template, count: int) -> None:
    """Copy the template's rows in these tables so many times; what is said of a table replaces columns of it."""
    connection = await asyncpg.connect(url)
    try:
        for first in range(1, count + 1, STEP):
            last = min(first + STEP - 1, count)
            for table, other in tables.items():
                statement = CLONE.format(table=table, ids=IDS, other=other or "'{}'::jsonb")
                given = (first, last, template.job_id, template.image_id, list(template.users), template.prefix)
                await connection.execute(statement, *given, timeout=900)
            if last % (5 * STEP) == 0 or last == count:
                progress(f"{last:,} of {count:,} jobs in {', '.join(tables)}")
        await connection.execute("vacuum analyze", timeout=1800)
    finally:
        await connection.close()


@asynccontextmanager
async def heard(world: World, routing_key: str) -> AsyncIterator["asyncio.Future[AbstractIncomingMessage]"]:
    """Hear the next message of a kind, without taking it from those that it is for."""
    async with await aio_pika.connect(world.dev["amqp_url"]) as connection:
        queue = await (await connection.channel()).declare_queue(exclusive=True)
        await queue.bind("pixorly.events", routing_key)
        heard: asyncio.Future[AbstractIncomingMessage] = asyncio.get_running_loop().create_future()

        async def take(message: AbstractIncomingMessage) -> None:
            if not heard.done():
                heard.set_result(message)

        await queue.consume(take, no_ack=True)
        yield heard


async def publish_copies(world: World, message: AbstractIncomingMessage, template: Template, count: int) -> None:
    """Publish a message so many times, with the ids of the copies."""
    user = template.users[0]
    async with await aio_pika.connect(world.dev["amqp_url"]) as connection:
        exchange = await (await connection.channel()).get_exchange("pixorly.events")

        async def send(number: int) -> None:
            job_id, image_id, owner = template.ids(number)
            body = message.body.decode().replace(template.job_id, job_id).replace(template.image_id, image_id)
            body = body.replace(f'"{user}"', f'"{owner}"')
            event_id = str(uuid4())
            copy = aio_pika.Message(
                body.replace(str(message.message_id), event_id).encode(),
                headers=message.headers,
                content_type=message.content_type,
                delivery_mode=message.delivery_mode,
                message_id=event_id,
                type=message.type,
                timestamp=message.timestamp,
                app_id=message.app_id,
            )
            await exchange.publish(copy, routing_key=str(message.routing_key))

        for first in range(1, count + 1, AT_ONCE):
            await asyncio.gather(*(send(number) for number in range(first, min(first + AT_ONCE, count + 1))))
        progress(f"{count:,} messages are queued")
