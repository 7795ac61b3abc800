"""Events in: what workers did, and what nobody could handle."""

from pixorly.delivery import Delivery
from pixorly.events import Event, ImageGenerated, ImageMoved, JobCreated
from pixorly_api.images import Images
from pixorly_api.jobs import Jobs


async def follow_job(jobs: Jobs, images: Images, event: Event, _: Delivery) -> None:
    """Take down what a worker did for a job or an image; what follows goes out through the outbox."""
    if isinstance(event, ImageMoved):
        await images.follow_move(event)
    else:
        await jobs.follow(event)


async def settle_dead(jobs: Jobs, event: JobCreated | ImageGenerated, _: Delivery) -> None:
    """Fail the slots of a message that was put aside, so that their credits come back without a person's help."""
    await jobs.bury(event)
