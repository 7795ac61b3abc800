"""The events of a call's end: the same ones however often they are made."""

from collections.abc import Mapping, Sequence

from pixorly.events import Event, ImageFailed, ImageGenerated, JobCreated
from pixorly.outcomes import Outcome, outcome_of
from pixorly_generator.staging import StagedImage


def results(event: JobCreated, model: str, images: Sequence[StagedImage], failures: Mapping[str, str]) -> list[Event]:
    """Return the events of the slots that a call served: images for some, codes for the others."""
    generated: list[Event] = [
        ImageGenerated.of(
            event.job_id,
            event.user_id,
            index=image.index,
            image_id=image.image_id,
            staged_key=image.staged_key,
            content_type=image.content_type,
            sha256=image.sha256,
            bytes=image.bytes,
            model=model,
            visibility=event.visibility,
        )
        for image in images
    ]
    return [*generated, *(_failed(event, int(index), outcome_of(code)) for index, code in failures.items())]


def _failed(event: JobCreated, index: int, outcome: Outcome) -> ImageFailed:
    return ImageFailed.of(
        event.job_id,
        event.user_id,
        index=index,
        image_id=event.image_ids[index],
        code=outcome.code,
        message=outcome.message,
        fault=outcome.fault or "server",
        stage="generate",
    )
