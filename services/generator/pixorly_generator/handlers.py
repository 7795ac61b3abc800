"""The generator's edge: events in."""

from pixorly.delivery import Delivery, Fail
from pixorly.events import JobCreated, JobSettled
from pixorly_generator.calls import Calls


async def generate_image(calls: Calls, event: JobCreated, delivery: Delivery) -> None:
    """Make the job's provider calls; what they brought goes out through the outbox."""
    await calls.make_all(event, again=delivery.attempt > 1)


async def give_up(calls: Calls, event: JobCreated, failure: Fail) -> None:
    """Fail what is open of a job whose retries are used up."""
    await calls.give_up(event, failure.code)


async def close_job(calls: Calls, event: JobSettled, _: Delivery) -> None:
    """Close what is left of a settled job."""
    await calls.close(event.job_id)
