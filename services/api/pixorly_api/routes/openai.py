"""What OpenAI's clients call: images and models.

An answer that takes long is kept alive. Within `stream_keepalive_s` a request gets its answer with its own status;
after that a 200 begins, with white space before the JSON, so that no proxy finds the connection idle. Where the job
fails then, the connection is cut: OpenAI's client repeats the request, finds the same job and is told with the right
status.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
import structlog
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send
from typing_extensions import override

from pixorly.errors import OutageError, PixorlyError
from pixorly_api import openai, problems, views
from pixorly_api.creation import Created, Order, body_hash
from pixorly_api.edge import JsonRoute
from pixorly_api.errors import IdempotencyInProgress
from pixorly_api.openai import ImageData, ImagesRequest, ImagesResponse, OpenAIModel, OpenAIModelList
from pixorly_api.parts import Maker, P, Parts, Reader
from pixorly_api.problems import documented
from pixorly_api.routes.generations import IdempotencyKey, ordered, reread, settled_within, unquoted
from pixorly_api.routes.repeats import repeats
from pixorly_api.routes.streams import HEADERS, STILL_HERE
from pixorly_api.schemas import CreatedGenerationOut
from pixorly_api.store import Image, Record

_log = structlog.get_logger()
router = APIRouter(prefix="/openai/v1", tags=["openai"], route_class=JsonRoute)

_IN_PROGRESS_S: Final = 30
"""How long a repeat waits for the first request to make its job: longer than a claim lasts."""
_LOOK_AGAIN_S: Final = 0.25


class _UnfinishedError(Exception):
    """What was begun can't be finished."""


class _Kept(StreamingResponse):
    """An answer that was begun before it was known; it is cut where it can't be finished."""

    @override
    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except _UnfinishedError:
            return  # Without its end the server closes the connection, and the client knows that it was no answer.


@router.post(
    "/images/generations",
    operation_id="openaiGenerateImages",
    summary="Ask for images as at OpenAI",
    response_model=ImagesResponse,
    responses={
        200: {
            "content": {"text/event-stream": {}},
            "description": "The images, or with `stream` an event for each one.",
        },
        202: {"model": CreatedGenerationOut, "description": "The job, with `Prefer: respond-async`."},
        **documented(400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504),
    },
)
async def generate(
    *,
    body: ImagesRequest,
    request: Request,
    parts: P,
    caller: Maker,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[str | None, Header(max_length=200, description="`respond-async`: answer with the job.")] = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Make images and answer with them. A request that OpenAI's client repeats after a time-out is the same job."""
    model = openai.model_named(parts.catalogue, body.model, parts.settings.openai_default_model)
    order = replace(
        ordered(parts, caller.user_id, openai.order_of(body, model)),
        body_hash=body_hash({"openai": await request.json()}),
        key=unquoted(idempotency_key),
        at_once=await parts.limits.jobs_at_once(caller.user_id),
    )
    order = replace(order, repeats=await repeats(parts, request, order, x_stainless_retry_count))
    made = await _made(parts, order)
    headers = {"Location": f"/v1/generations/{made.record.job.job_id}"}
    if made.replayed:
        headers["Idempotent-Replayed"] = "true"
    if "respond-async" in (prefer or "").lower():
        shown = await views.created(made.record, parts.links)
        return Response(shown.model_dump_json(), 202, headers, "application/json")
    if body.stream:
        return StreamingResponse(
            _events(parts, body, made.record, problems.request_id_of(request)),
            headers={**headers, **HEADERS},
            media_type="text/event-stream",
        )
    return await _answer(parts, body, made.record, request, headers)


async def _made(parts: Parts, order: Order) -> Created:
    """Return the job of an order; wait for an earlier request with the same key or body that is making it.

    Raises:
        IdempotencyInProgress: That one takes too long.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _IN_PROGRESS_S
    while True:
        try:
            return await parts.creation.create(order)
        except IdempotencyInProgress:
            if loop.time() > until or parts.watcher.stopping:
                raise
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _answer(
    parts: Parts, body: ImagesRequest, record: Record, request: Request, headers: dict[str, str]
) -> Response:
    keepalive_s = parts.settings.stream_keepalive_s
    record = await settled_within(parts, record, keepalive_s)
    if record.job.settled and record.job.status != "completed":
        return problems.answer(_problem(body, record, problems.request_id_of(request)), request.url.path)
    if record.job.settled:
        return Response(await _shown(parts, body, record), 200, headers, "application/json")
    if parts.watcher.stopping:
        raise _stopping()
    return _Kept(_kept(parts, body, record), 200, {**headers, **HEADERS}, "application/json")


def _stopping() -> OutageError:
    return OutageError("api", "This process is stopping; ask again.", retry_after_s=1)


async def _kept(parts: Parts, body: ImagesRequest, record: Record) -> AsyncIterator[bytes]:
    """Yield white space until the job is settled, then the answer.

    Raises:
        _UnfinishedError: There is none with this status; the client is to ask again.
    """
    yield b" "
    while not record.job.settled:
        if parts.watcher.stopping:
            raise _UnfinishedError
        record = await settled_within(parts, record, parts.settings.stream_keepalive_s)
        yield b" "
    if record.job.status != "completed":
        raise _UnfinishedError
    try:
        answer = await _shown(parts, body, record)
    except PixorlyError as error:
        raise _UnfinishedError from error
    yield answer


def _problem(body: ImagesRequest, record: Record, request_id: str) -> dict[str, Any]:
    """Return the error that a job which made nothing becomes, with the name of the model that was asked for."""
    code, message = openai.why_failed(record)
    return problems.body_of(code, message, request_id, {"job_id": str(record.job.job_id), "model": body.model})


async def _shown(parts: Parts, body: ImagesRequest, record: Record) -> bytes:
    data = [image async for _, image in _data(parts, body, record.images)]
    return openai.response_of(record, data).model_dump_json().encode()


async def _data(parts: Parts, body: ImagesRequest, found: tuple[Image, ...]) -> AsyncIterator[tuple[Image, ImageData]]:
    """Yield images as asked for: as links, or read from the bucket as long as they fit into an answer."""
    left_bytes = parts.settings.openai_answer_max_bytes
    for image in found:
        left_bytes -= image.bytes
        if left_bytes < 0 and not body.as_links:
            _log.warning(
                "an image did not fit into an answer and went as a link",
                image_id=str(image.image_id),
                image_bytes=image.bytes,
                answer_max_bytes=parts.settings.openai_answer_max_bytes,
            )
        if body.as_links or left_bytes < 0:
            (shown,) = await views.images([image], parts.links)
            yield image, ImageData(url=shown.url)
        else:
            yield image, ImageData(b64_json=await parts.pictures.base64(image.original_key))


async def _events(parts: Parts, body: ImagesRequest, record: Record, request_id: str) -> AsyncIterator[bytes]:
    """Yield an event for each image as it is stored; an error where there is none in the end."""
    yield STILL_HERE
    try:
        async for event in _progress(parts, body, record, request_id):
            yield event
    except PixorlyError as error:
        yield _event(openai.dressed(problems.describe(error, request_id)), "error")


async def _progress(parts: Parts, body: ImagesRequest, record: Record, request_id: str) -> AsyncIterator[bytes]:
    sent: set[int] = set()
    with parts.watcher.job(record.job.job_id) as watch:
        while True:
            new = tuple(image for image in record.images if image.index not in sent)
            async for image, data in _data(parts, body, new):
                sent.add(image.index)
                yield _event(openai.completed_event(record, image, data))
            if record.job.settled or parts.watcher.stopping:
                break
            if not await watch.changed(record.version, parts.settings.stream_keepalive_s):
                yield STILL_HERE
            record = await reread(parts, record)
    if not record.job.settled:
        raise _stopping()
    if record.job.status != "completed":
        yield _event(openai.dressed(_problem(body, record, request_id)), "error")


def _event(body: dict[str, Any], name: str | None = None) -> bytes:
    return b"event: " + (name or body["type"]).encode() + b"\ndata: " + orjson.dumps(body, default=str) + b"\n\n"


@router.get(
    "/models",
    operation_id="openaiListModels",
    summary="List models as at OpenAI",
    responses=documented(401, 403, 422, 429, 500, 503),
)
async def list_models(parts: P, _: Reader) -> OpenAIModelList:
    """Return the models on offer."""
    return OpenAIModelList(data=[OpenAIModel(id=model.id, owned_by=model.provider) for model in parts.catalogue.all()])


@router.get(
    "/models/{model_id:path}",
    operation_id="openaiGetModel",
    summary="Read a model as at OpenAI",
    responses=documented(401, 403, 404, 422, 429, 500, 503),
)
async def get_model(parts: P, _: Reader, model_id: str) -> OpenAIModel:
    """Return a model under the name that was asked for: of the catalogue, or one of OpenAI's."""
    model = openai.model_named(parts.catalogue, model_id, parts.settings.openai_default_model)
    return OpenAIModel(id=model_id, owned_by=model.provider)
