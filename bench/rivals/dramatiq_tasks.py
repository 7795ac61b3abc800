"""The shop's worker with Dramatiq: durable, acknowledged late as it always does, published with confirms."""

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from shop import Settings, shop

settings = Settings()
dramatiq.set_broker(RabbitmqBroker(url=settings.amqp_url, confirm_delivery=True))


@dramatiq.actor(actor_name="make", queue_name=settings.queue, max_retries=3, min_backoff=2_000, max_backoff=8_000)
def make(order_id: str) -> None:
    shop.ready().make(order_id)


def send(order_id: str) -> None:
    make.send(order_id)
