"""From rows to what clients read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pixorly_api import lifecycle
from pixorly_api.links import PLAIN, Link, Links, Terms
from pixorly_api.schemas import (
    CreatedGenerationOut,
    FailureOut,
    GenerationOut,
    Receipt,
    SlotOut,
    StoredImageOut,
    TimelineEntry,
)
from pixorly_api.store import Image, Record


async def generations(records: Sequence[Record], links: Links) -> list[GenerationOut]:
    """Return jobs as clients read them, with fresh links."""
    shown = await images([image for record in records for image in record.images], links)
    by_job: dict[Any, list[StoredImageOut]] = {record.job.job_id: [] for record in records}
    for image in shown:
        by_job[image.generation_id].append(image)
    return [GenerationOut(**_facts(record, by_job[record.job.job_id])) for record in records]


async def generation(record: Record, links: Links) -> GenerationOut:
    """Return one job as clients read it."""
    return (await generations([record], links))[0]


async def created(record: Record, links: Links) -> CreatedGenerationOut:
    """Return a job as the call that made it answers."""
    shown = await images(record.images, links)
    return CreatedGenerationOut(credits_remaining=record.balance_credits, **_facts(record, shown))


def _facts(record: Record, shown: list[StoredImageOut]) -> dict[str, Any]:
    job = record.job
    took = job.settled_at - job.created_at if job.settled_at else None
    return {
        "id": job.job_id,
        "status": job.status,
        "model": job.model,
        "fallback_models": list(job.fallback_models),
        "models_used": sorted({image.model for image in shown}),
        "prompt": job.prompt,
        "n": job.n,
        "visibility": job.visibility,
        "params": job.params.model_dump(mode="json", exclude_none=True),
        "credits_used": job.n * job.credits_per_image,
        "credits_refunded": lifecycle.refunded_credits(job),
        "created_at": job.created_at,
        "deadline": job.deadline,
        "started_at": job.started_at,
        "settled_at": job.settled_at,
        "processing_time_ms": round(took.total_seconds() * 1000) if took else None,
        "retry_count": job.retry_count,
        "retry_of": record.retry_of,
        "images": shown,
        "failures": [
            FailureOut(
                index=slot.index,
                code=slot.code,
                message=slot.message or "",
                fault=slot.fault or "server",
                stage=slot.stage or "settle",
            )
            for slot in job.slots
            if slot.code
        ],
        "slots": [SlotOut(index=slot.index, image_id=slot.image_id, state=slot.state) for slot in job.slots],
        "metadata": dict(record.metadata),
    }


async def images(
    found: Sequence[Image], links: Links, terms: Terms = PLAIN, *, download: bool = False
) -> list[StoredImageOut]:
    """Return images as clients read them, with fresh links; those of a download have a browser save the file."""
    keys = [key for image in found for key in image.keys]
    if download:
        terms = replace(terms, file_names={key: _file_name(image, key) for image in found for key in image.keys})
    made = iter(await links.of(keys, terms)) if keys else iter(())
    return [_image(image, {key: next(made) for key in image.keys}) for image in found]


def _file_name(image: Image, key: str) -> str:
    """Return the name under which a browser saves what lies under a key: the end of the job's id, and the index."""
    size = next((f"-{px}" for px, thumbnail in image.thumbnail_keys.items() if thumbnail == key), "")
    return f"pixorly-{image.job_id.hex[-8:]}-{image.index}{size}{PurePosixPath(key).suffix}"


def _image(image: Image, links: dict[str, Link]) -> StoredImageOut:
    original = links[image.original_key]
    return StoredImageOut(
        id=image.image_id,
        index=image.index,
        url=original.url,
        url_expires_at=original.expires_at,
        thumbnails={size: links[key].url for size, key in image.thumbnail_keys.items()},
        width=image.width,
        height=image.height,
        bytes=image.bytes,
        content_type=image.content_type,
        sha256=image.sha256,
        thumbhash=image.thumbhash,
        generation_id=image.job_id,
        model=image.model,
        visibility=image.visibility,
        moving=image.moving,
        created_at=image.created_at,
    )


def timeline(
    record: Record, attempts: Sequence[dict[str, Any]], slots: Sequence[dict[str, Any]]
) -> list[TimelineEntry]:
    """Return what happened to a job, in order."""
    job = record.job
    entries = [TimelineEntry(at=job.created_at, what="job.created")]
    entries += [TimelineEntry(what=f"job.{attempt['kind']}", **attempt) for attempt in attempts]
    for slot in slots:
        if slot["generated_at"]:
            entries.append(
                TimelineEntry(at=slot["generated_at"], what="image.generated", index=slot["index"], model=slot["model"])
            )
        if slot["ended_at"]:
            entries.append(TimelineEntry(at=slot["ended_at"], what=f"image.{slot['state']}", **_why(slot)))
    if job.settled_at:
        entries.append(TimelineEntry(at=job.settled_at, what=f"job.{job.status}"))
    return sorted(entries, key=lambda entry: entry.at)


def _why(slot: dict[str, Any]) -> dict[str, Any]:
    return {name: slot[name] for name in ("index", "code", "message", "stage")}


def receipt(charge: Mapping[str, Any]) -> Receipt:
    """Return what a job took, and what became of it, image by image."""
    return Receipt.model_validate({**charge, "generation_id": charge["job_id"]})
