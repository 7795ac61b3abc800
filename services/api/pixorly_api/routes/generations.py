"""Jobs over HTTP."""

import asyncio
import re
from dataclasses import replace
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response

from pixorly.catalogue import Catalogue, Model, check_fallbacks
from pixorly.errors import InvalidRequest, OutageError
from pixorly_api import store, views
from pixorly_api.creation import Order, body_hash
from pixorly_api.edge import JsonRoute
from pixorly_api.errors import NotFound
from pixorly_api.fields import Moment
from pixorly_api.parts import Cursor, JobId, Limit, Maker, P, Parts, Reader, page, read_cursor
from pixorly_api.problems import documented
from pixorly_api.schemas import (
    CreatedGenerationOut,
    CreateGeneration,
    GenerationList,
    GenerationOut,
    Receipt,
    Status,
    Timeline,
)
from pixorly_api.store import Filters, Record

router = APIRouter(prefix="/v1/generations", tags=["generations"], route_class=JsonRoute)

_WAIT: Final = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])", re.IGNORECASE)
_KEY: Final = r'^([!#-~][!-~]{0,254}|"[!-~]{1,255}")$'
_READ: Final = documented(401, 403, 404, 422, 429, 500, 503)


@router.post(
    "",
    status_code=202,
    operation_id="createGeneration",
    summary="Ask for images",
    responses={
        200: {"model": CreatedGenerationOut, "description": "It was settled within the time of `Prefer: wait=N`."},
        **documented(400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 503),
    },
)
async def create(
    *,
    body: CreateGeneration,
    request: Request,
    response: Response,
    parts: P,
    caller: Maker,
    idempotency_key: Annotated[
        str | None, Header(pattern=_KEY, description="Makes a repeat safe, for 24 hours; quoted or not.")
    ] = None,
    prefer: Annotated[str | None, Header(max_length=200, description="`wait=N`: answer when settled.")] = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> CreatedGenerationOut:
    """Take the credits, store the job and answer at once; what it made can be read from its address."""
    order = _order(parts, caller.user_id, body, await request.json(), idempotency_key)
    repeats = (x_stainless_retry_count or "0") not in {"", "0"}
    order = replace(order, at_once=await parts.plans.jobs_at_once(caller.user_id))
    made = await parts.creation.create(order if not repeats else order.repeated())
    record = await _settled_within(parts, made.record, _wait_s(prefer, parts.settings.wait_max_s))
    response.status_code = 200 if record.job.settled else 202
    response.headers["Location"] = f"/v1/generations/{record.job.job_id}"
    if made.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return await views.created(record, parts.links)


def _order(parts: Parts, user_id: str, body: CreateGeneration, sent: dict[str, object], key: str | None) -> Order:
    """Return what is asked for, checked against the catalogue.

    Raises:
        InvalidRequest: It can't be made.
    """
    settings = parts.settings
    if len(body.prompt) > settings.prompt_max_chars:
        raise InvalidRequest(f"A prompt has at most {settings.prompt_max_chars} characters.", param="prompt")
    if body.deadline_s is not None and body.deadline_s > settings.job_deadline_s:
        raise InvalidRequest(f"A deadline is at most {settings.job_deadline_s} seconds.", param="deadline_s")
    model, fallbacks = _models(parts.catalogue, body)
    params = model.params(
        width=body.width,
        height=body.height,
        aspect_ratio=body.aspect_ratio,
        quality=body.quality,
        output_format=body.output_format,
        background=body.background,
        seed=body.seed,
    )
    check_fallbacks(model, fallbacks, params)
    return Order(
        user_id=user_id,
        model=model,
        fallbacks=fallbacks,
        visibility=body.visibility,
        params=params,
        prompt=body.prompt,
        n=body.n,
        metadata=body.metadata,
        deadline_s=body.deadline_s or settings.job_deadline_s,
        body_hash=body_hash(sent),
        key=_unquoted(key),
    )


def _models(catalogue: Catalogue, body: CreateGeneration) -> tuple[Model, tuple[Model, ...]]:
    """Return the model that is asked for, and its fallbacks."""
    model = catalogue.find(body.model)
    return model, tuple(catalogue.find(model_id, param="fallback_models") for model_id in body.fallback_models)


def _unquoted(key: str | None) -> str | None:
    """Return an idempotency key without the quotes that the header's draft standard asks for."""
    return key[1:-1] if key and key.startswith('"') else key


def _wait_s(prefer: str | None, most_s: float) -> float:
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), most_s) if found else 0.0


async def _settled_within(parts: Parts, record: Record, wait_s: float) -> Record:
    """Return the job when it is settled, or as it is after `wait_s` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    with parts.watcher.job(record.job.job_id) as watch:
        while not record.job.settled and not parts.watcher.stopping and (left_s := until - loop.time()) > 0:
            if not await watch.changed(record.version, left_s):
                return record
            try:
                record = await read(parts, record.job.user_id, record.job.job_id)
            except OutageError:
                return record  # it is stored all the same
    return record


async def read(parts: Parts, user_id: str, job_id: UUID) -> Record:
    """Return a user's job.

    Raises:
        NotFound: They have none with this id.
    """
    async with parts.database.connection() as connection:
        found = await store.records(connection, user_id, [job_id])
    if not found:
        raise NotFound
    return found[0]


@router.get(
    "",
    operation_id="listGenerations",
    summary="List jobs, newest first",
    responses=documented(401, 403, 422, 429, 500, 503),
)
async def list_all(
    *,
    parts: P,
    caller: Reader,
    status: Annotated[Status | None, Query()] = None,
    model: Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00-\x1f]+$")] = None,
    created_after: Annotated[Moment | None, Query()] = None,
    created_before: Annotated[Moment | None, Query()] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> GenerationList:
    """Return a page of the caller's jobs; new ones do not shift the pages that follow."""
    filters = Filters(status, model, created_after, created_before)
    async with parts.database.connection() as connection:
        found = await store.list_records(connection, caller.user_id, filters, read_cursor(cursor), limit + 1)
    shown, following = page(found, limit, lambda record: record.job.job_id)
    return GenerationList(data=await views.generations(shown, parts.links), next_cursor=following)


@router.get("/{generation_id}", operation_id="getGeneration", summary="Read a job", responses=_READ)
async def get(parts: P, caller: Reader, generation_id: JobId) -> GenerationOut:
    """Return a job, its images with fresh links."""
    return await views.generation(await read(parts, caller.user_id, generation_id), parts.links)


@router.post(
    "/{generation_id}/cancel",
    operation_id="cancelGeneration",
    summary="Take a job back",
    responses=documented(401, 403, 404, 409, 413, 422, 429, 500, 503),
)
async def cancel(parts: P, caller: Maker, generation_id: JobId) -> GenerationOut:
    """Cancel a job that is not begun, and give all its credits back."""
    await read(parts, caller.user_id, generation_id)
    await parts.jobs.cancel(generation_id)
    return await views.generation(await read(parts, caller.user_id, generation_id), parts.links)


@router.get(
    "/{generation_id}/timeline", operation_id="getGenerationTimeline", summary="What happened when", responses=_READ
)
async def timeline(parts: P, caller: Reader, generation_id: JobId) -> Timeline:
    """Return what happened to a job, on which attempt."""
    record = await read(parts, caller.user_id, generation_id)
    async with parts.database.connection() as connection:
        attempts = await store.attempts_of(connection, generation_id)
        slots = await store.slot_times(connection, generation_id)
    return Timeline(generation_id=generation_id, trace_id=record.trace_id, data=views.timeline(record, attempts, slots))


@router.get("/{generation_id}/receipt", operation_id="getGenerationReceipt", summary="Who paid", responses=_READ)
async def receipt(parts: P, caller: Reader, generation_id: JobId) -> Receipt:
    """Return what a job took, and what became of it, image by image."""
    await read(parts, caller.user_id, generation_id)
    return views.receipt(await parts.ledger.get_charge(generation_id))
