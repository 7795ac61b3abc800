"""The shop's worker with Celery: durable, acknowledged late, published with confirms."""

from typing import Any

import httpx
from celery import Celery
from celery.signals import worker_process_init
from shop import Settings, shop

settings = Settings()
app = Celery("shop", broker=settings.amqp_url)
app.conf.update(
    task_default_queue=settings.queue,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # An acknowledgement that comes late holds its place, so a few messages more keep a process from waiting.
    worker_prefetch_multiplier=4,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    broker_pool_limit=20,
    worker_hijack_root_logger=False,
    task_time_limit=600,
)


@worker_process_init.connect
def warm_up(**_: Any) -> None:
    shop.ready()


@app.task(
    name="shop.make",
    autoretry_for=(httpx.HTTPError,),
    retry_backoff=2,
    retry_jitter=True,
    max_retries=3,
)
def make(order_id: str) -> None:
    shop.ready().make(order_id)


def send(order_id: str) -> None:
    make.delay(order_id)
