"""The operator's calls about dead letters: look, handle again, throw away."""

import base64
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query

from pixorly_api.admin_schemas import (
    DeadLetterOut,
    DeadList,
    DeadMessage,
    DeadMessages,
    DeadQueue,
    HandledLetter,
    HandledLetters,
    SelectDead,
)
from pixorly_api.dead import Handled, Letter, Selection
from pixorly_api.edge import JsonRoute
from pixorly_api.parts import Admin, P
from pixorly_api.problems import documented

router = APIRouter(prefix="/admin/v1/dead", tags=["admin"], route_class=JsonRoute)

_READ = documented(401, 403, 404, 422, 429, 500, 503)
_WRITE = documented(400, 401, 403, 404, 413, 422, 429, 500, 503)

Queue = Annotated[str | None, Query(max_length=100, description="Only this queue: a work queue's name.")]


@router.get("", operation_id="listDead", summary="List dead letters", responses=_READ)
async def list_dead(
    parts: P,
    _: Admin,
    queue: Queue = None,
    job_id: Annotated[UUID | None, Query(description="Only what names this job.")] = None,
    reason: Annotated[str | None, Query(min_length=1, max_length=300, description="A part of the reason.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
) -> DeadList:
    """Return how many dead letters wait in which queue, and what they are, without their bodies."""
    looked = await parts.dead.look(Selection(queue=queue, job_id=job_id, reason=reason), limit)
    return DeadList(
        queues=[DeadQueue(queue=name, waiting=count) for name, count in looked.waiting.items()],
        data=[_letter(letter) for letter in looked.letters],
        more=looked.more,
    )


@router.get("/{message_id}", operation_id="showDead", summary="Read a dead letter", responses=_READ)
async def show_dead(
    parts: P,
    _: Admin,
    message_id: Annotated[str, Path(max_length=100, description="The message's id.")],
    queue: Queue = None,
) -> DeadMessages:
    """Return the dead letters with this id and their bodies; one message may have died in more than one queue."""
    return DeadMessages(data=[_message(letter) for letter in await parts.dead.show(message_id, queue)])


@router.post("/replay", operation_id="replayDead", summary="Handle dead letters again", responses=_WRITE)
async def replay_dead(parts: P, _: Admin, body: SelectDead) -> HandledLetters:
    """Send dead letters to the queue that they died in; what belongs to a settled or unknown job is discarded."""
    return _answer(*await parts.dead.replay(_selection(body), body.limit))


@router.post("/discard", operation_id="discardDead", summary="Throw dead letters away", responses=_WRITE)
async def discard_dead(parts: P, _: Admin, body: SelectDead) -> HandledLetters:
    """Destroy dead letters."""
    return _answer(*await parts.dead.discard(_selection(body), body.limit))


def _selection(body: SelectDead) -> Selection:
    ids = None if body.message_ids is None else frozenset(body.message_ids)
    return Selection(queue=body.queue, message_ids=ids, job_id=body.job_id, reason=body.reason)


def _letter(letter: Letter) -> DeadLetterOut:
    return DeadLetterOut(
        id=letter.id,
        queue=letter.queue,
        type=letter.type,
        job_id=letter.job_id,
        user_id=letter.user_id,
        reason=letter.reason,
        attempt=letter.attempt,
        died_at=letter.died_at,
        size_bytes=letter.size_bytes,
    )


def _message(letter: Letter) -> DeadMessage:
    encoding: Literal["utf-8", "base64"]
    try:
        text, encoding = letter.body.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(letter.body).decode(), "base64"
    return DeadMessage(
        **_letter(letter).model_dump(),
        headers={name: str(value) for name, value in letter.headers.items()},
        body=text,
        body_encoding=encoding,
        truncated=len(letter.body) < letter.size_bytes,
    )


def _answer(handled: list[Handled], more: bool) -> HandledLetters:  # noqa: FBT001 - a pair that comes as it is
    return HandledLetters(
        data=[
            HandledLetter(
                id=one.letter.id, queue=one.letter.queue, job_id=one.letter.job_id, fate=one.fate, why=one.why
            )
            for one in handled
        ],
        more=more,
    )
