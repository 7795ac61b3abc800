"""Jobs over HTTP."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response

from pixorly import telemetry
from pixorly.catalogue import Catalogue, Model, check_fallbacks
from pixorly.errors import InvalidRequest, OutageError
from pixorly_api import store, views
from pixorly_api.creation import Created, Order, body_hash
from pixorly_api.edge import JsonRoute
from pixorly_api.errors import NotFailed, QuoteNotKept
from pixorly_api.fields import Moment, Text
from pixorly_api.parts import Cursor, JobId, Limit, Maker, P, Parts, Reader, page, read_cursor
from pixorly_api.problems import documented
from pixorly_api.routes.repeats import repeats
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
IdempotencyKey = Annotated[
    str | None, Header(pattern=_KEY, description="Makes a repeat safe, for 24 hours; quoted or not.")
]
Prefer = Annotated[str | None, Header(max_length=200, description="`wait=N`: answer when settled.")]
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
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> CreatedGenerationOut:
    """Take the credits, store the job and answer at once; what it made can be read from its address."""
    order = ordered(parts, caller.user_id, body)
    if body.quote_id:
        order = await _at_quoted_price(parts, order, body.quote_id)
    order = replace(
        order,
        body_hash=body_hash(await request.json()),
        key=unquoted(idempotency_key),
        at_once=await parts.limits.jobs_at_once(caller.user_id),
    )
    order = replace(order, repeats=await repeats(parts, request, order, x_stainless_retry_count))
    return await _answer(parts, response, await parts.creation.create(order), prefer)


async def _at_quoted_price(parts: Parts, order: Order, quote_id: UUID) -> Order:
    """Return the order at the price that was quoted.

    Raises:
        QuoteNotKept: It was quoted for another order, for somebody else, or too long ago.
    """
    async with parts.database.connection() as connection:
        quoted = await store.quoted_credits(connection, quote_id, order.user_id, order.body_hash)
    if quoted is None:
        raise QuoteNotKept(param="quote_id")
    return replace(order, quoted_credits=quoted)


async def _answer(parts: Parts, response: Response, made: Created, prefer: str | None) -> CreatedGenerationOut:
    record = await settled_within(parts, made.record, _wait_s(prefer, parts.settings.wait_max_s))
    response.status_code = 200 if record.job.settled else 202
    response.headers["Location"] = f"/v1/generations/{record.job.job_id}"
    if made.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return await views.created(record, parts.links)


def ordered(parts: Parts, user_id: str, body: CreateGeneration) -> Order:
    """Return what is asked for, checked against the catalogue; its hash tells it from other orders.

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
        body_hash=body_hash(body.model_dump(mode="json", exclude={"quote_id", "metadata"})),
    )


def _models(catalogue: Catalogue, body: CreateGeneration) -> tuple[Model, tuple[Model, ...]]:
    """Return the model that is asked for, and its fallbacks."""
    model = catalogue.find(body.model)
    return model, tuple(catalogue.find(model_id, param="fallback_models") for model_id in body.fallback_models)


def unquoted(key: str | None) -> str | None:
    """Return an idempotency key without the quotes that the header's draft standard asks for."""
    return key[1:-1] if key and key.startswith('"') else key


def _wait_s(prefer: str | None, most_s: float) -> float:
    found = _WAIT.search(prefer or "")
    return min(float(found[1]), most_s) if found else 0.0


async def settled_within(parts: Parts, record: Record, wait_s: float) -> Record:
    """Return the job when it is settled, or as it is after `wait_s` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    with parts.watcher.job(record.job.job_id) as watch:
        while not record.job.settled and not parts.watcher.stopping and (left_s := until - loop.time()) > 0:
            if not await watch.changed(record.version, left_s):
                return record
            record = await reread(parts, record)
    return record


async def reread(parts: Parts, record: Record) -> Record:
    """Return a job as it is by now, or as it was where that can't be read: it is stored all the same."""
    try:
        return await parts.records.of(record.job.user_id, record.job.job_id)
    except OutageError:
        return record


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
    prompt: Annotated[Text | None, Query(min_length=1, max_length=200, description="A part of the prompt.")] = None,
    metadata: Annotated[
        list[Annotated[Text, Query(max_length=600)]] | None,
        Query(max_length=16, description="`key:value`, as often as needed: all of them must be there."),
    ] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> GenerationList:
    """Return a page of the caller's jobs; new ones do not shift the pages that follow."""
    filters = Filters(status, model, created_after, created_before, prompt, _pairs(metadata or ()))
    async with parts.database.connection() as connection:
        found = await store.list_records(connection, caller.user_id, filters, read_cursor(cursor), limit + 1)
    shown, following = page(found, limit, lambda record: record.job.job_id)
    return GenerationList(data=await views.generations(shown, parts.links), next_cursor=following)


def _pairs(written: Sequence[str]) -> dict[str, str]:
    """Return what `key:value` texts say.

    Raises:
        InvalidRequest: One has no colon.
    """
    if any(":" not in text for text in written):
        raise InvalidRequest("Written like `key:value`.", param="metadata")
    return {key: value for key, _, value in (text.partition(":") for text in written)}


@router.get("/{generation_id}", operation_id="getGeneration", summary="Read a job", responses=_READ)
async def get(parts: P, caller: Reader, generation_id: JobId) -> GenerationOut:
    """Return a job, its images with fresh links."""
    return await views.generation(await parts.records.of(caller.user_id, generation_id), parts.links)


@router.post(
    "/{generation_id}/cancel",
    operation_id="cancelGeneration",
    summary="Take a job back",
    responses=documented(401, 403, 404, 409, 413, 422, 429, 500, 503),
)
async def cancel(parts: P, caller: Maker, generation_id: JobId) -> GenerationOut:
    """Cancel a job that is not begun, and give all its credits back."""
    await parts.records.of(caller.user_id, generation_id)
    await parts.jobs.cancel(generation_id)
    return await views.generation(await parts.records.of(caller.user_id, generation_id), parts.links)


@router.post(
    "/{generation_id}/retry",
    status_code=202,
    operation_id="retryGeneration",
    summary="Try a failed job again",
    responses={
        200: {"model": CreatedGenerationOut, "description": "It was settled within the time of `Prefer: wait=N`."},
        **documented(401, 402, 403, 404, 409, 413, 422, 429, 500, 503),
    },
)
async def retry(
    parts: P,
    caller: Maker,
    response: Response,
    generation_id: JobId,
    *,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> CreatedGenerationOut:
    """Make a new job of a failed one, at today's price, linked to it by `retry_of`."""
    failed = await parts.records.of(caller.user_id, generation_id)
    if failed.job.status != "failed":
        raise NotFailed(status=failed.job.status)
    if not failed.job.prompt:
        raise InvalidRequest("Its prompt is not kept any more.")
    order = replace(
        _again(parts, failed),
        retry_of=generation_id,
        key=unquoted(idempotency_key),
        at_once=await parts.limits.jobs_at_once(caller.user_id),
    )
    return await _answer(parts, response, await parts.creation.create(order), prefer)


def _again(parts: Parts, failed: Record) -> Order:
    """Return the order that a job came from, at today's price.

    Raises:
        InvalidRequest: Its model is not on offer any more, or makes no such images.
    """
    job, catalogue = failed.job, parts.catalogue
    model = catalogue.find(job.model)
    return Order(
        user_id=job.user_id,
        model=model,
        # Those of its fallbacks that are still there.
        fallbacks=tuple(one for one in catalogue.all() if one.id in job.fallback_models),
        visibility=job.visibility,
        params=model.same(job.params),
        prompt=job.prompt,
        n=job.n,
        metadata=failed.metadata,
        deadline_s=parts.settings.job_deadline_s,
        body_hash=body_hash({"retry_of": str(job.job_id)}),
    )


@router.get(
    "/{generation_id}/timeline", operation_id="getGenerationTimeline", summary="What happened when", responses=_READ
)
async def timeline(parts: P, caller: Reader, generation_id: JobId) -> Timeline:
    """Return what happened to a job, on which attempt."""
    record = await parts.records.of(caller.user_id, generation_id)
    async with parts.database.connection() as connection:
        attempts = await store.attempts_of(connection, generation_id)
        slots = await store.slot_times(connection, generation_id)
    return Timeline(
        generation_id=generation_id,
        trace_id=telemetry.trace_id_of(record.job.place),
        data=views.timeline(record, attempts, slots),
    )


@router.get("/{generation_id}/receipt", operation_id="getGenerationReceipt", summary="Who paid", responses=_READ)
async def receipt(parts: P, caller: Reader, generation_id: JobId) -> Receipt:
    """Return what a job took, and what became of it, image by image."""
    await parts.records.of(caller.user_id, generation_id)
    return views.receipt(await parts.ledger.get_charge(generation_id))
