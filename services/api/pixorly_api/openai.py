"""OpenAI's image API in Pixorly's terms: what its clients send, and what they read."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from pixorly.catalogue import Catalogue, Model
from pixorly.errors import InvalidRequest
from pixorly.outcomes import OUTCOMES
from pixorly_api.fields import In, Out, Text, not_blank
from pixorly_api.lifecycle import refunded_credits
from pixorly_api.schemas import MAX_N, CreateGeneration, ModelId
from pixorly_api.store import Image, Record

PREFIX: Final = "/openai/"
_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_THEIRS: Final = ("gpt-image-", "dall-e-", "chatgpt-image-")
"""How the names of OpenAI's own image models begin."""
_OLDER: Final = "dall-e-"
"""Those whose images come as links where nothing else is asked for, and that call a rejected prompt otherwise."""
_QUALITIES: Final = {"auto": None, "standard": None, "hd": "high"}
_SERVER_ERROR: Final = 500

_SAID: Final[dict[str, tuple[int, str, str]]] = {
    "content_rejected": (400, "image_generation_user_error", "moderation_blocked"),
    "insufficient_credits": (429, "insufficient_quota", "insufficient_quota"),
    "invalid_request": (400, "invalid_request_error", "invalid_value"),
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "too_many_jobs": (429, "requests", "rate_limit_exceeded"),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "unknown_model": (404, "invalid_request_error", "model_not_found"),
}
"""What OpenAI calls an outcome: status, type and code. Any other keeps its own status and code."""
_REJECTED_BY_OLDER: Final = (400, "invalid_request_error", "content_policy_violation")
_PASSES: Final = frozenset({"idempotency_in_progress", "rate_limited", "too_many_jobs"})
"""The refusals that a client does well to repeat."""
_FIELDS: Final = {"width": "size", "height": "size", "aspect_ratio": "size"}


class ImagesRequest(In):
    """What OpenAI's client sends."""

    prompt: Annotated[Text, Field(min_length=1, max_length=32_000), AfterValidator(not_blank)]
    model: ModelId | None = None
    """Of the catalogue, or a name of OpenAI's; the operator's default where none is given."""
    n: Annotated[int, Field(ge=1, le=MAX_N, strict=True)] | None = None
    size: Annotated[Text, Field(max_length=16)] | None = None
    """`auto`, or width and height like `1024x1024`."""
    quality: Annotated[Text, Field(min_length=1, max_length=32)] | None = None
    """Of the model; `auto` and `standard` are its default, `hd` is `high`."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    background: Literal["auto", "transparent", "opaque"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    """`b64_json` where nothing is said; `url` for `dall-e-…`, as at OpenAI."""
    moderation: Literal["auto", "low"] | None = None
    """Taken and not passed on: the provider's own rules hold."""
    stream: Annotated[bool, Field(strict=True)] | None = None
    partial_images: Annotated[int, Field(ge=0, le=3, strict=True)] | None = None
    """Taken; images are only sent when they are complete."""
    user: Annotated[Text, Field(max_length=512)] | None = None
    """Kept as metadata of the job."""
    safety_identifier: Annotated[Text, Field(max_length=512)] | None = None
    """Kept as metadata of the job."""

    @property
    def as_links(self) -> bool:
        """Whether images are answered as links."""
        named = (self.model or "").startswith(_OLDER)
        return self.response_format == "url" or (self.response_format is None and named)


class ImageData(Out):
    """An image."""

    b64_json: str | None = None
    url: str | None = None
    """Where links are asked for; also where the image is too large for an answer."""


class TokenDetails(Out):
    """Nothing here is counted in tokens."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(Out):
    """What it took. Nothing is counted in tokens, so these are 0; `credits` is what was paid."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = Field(default_factory=TokenDetails)
    output_tokens: int = 0
    total_tokens: int = 0
    credits: int


class ImagesResponse(Out):
    """What OpenAI's client reads, and the job's id and model beside it."""

    created: int
    data: list[ImageData]
    background: str
    output_format: str
    quality: str
    size: str
    usage: Usage
    job_id: str
    model: str


class OpenAIModel(Out):
    """A model as OpenAI's client reads it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class OpenAIModelList(Out):
    """The models on offer."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


def model_named(catalogue: Catalogue, name: str | None, default: str | None) -> Model:
    """Return the model that a client of OpenAI's means.

    That is the one of this id; else OpenAI's of this name, wherever it is on offer; else, for another name of OpenAI's
    or none, the default: `default`, or the first on offer.

    Raises:
        UnknownModel: There is none.
    """
    offered = {model.id: model for model in catalogue.all()}
    for known in (name, f"openai/{name}", f"openai-direct/{name}"):
        if known in offered:
            return offered[known]
    if name is None or name.startswith(_THEIRS):
        return catalogue.find(default or next(iter(offered), ""))
    return catalogue.find(name)


def order_of(body: ImagesRequest, model: Model) -> CreateGeneration:
    """Return the same request in Pixorly's words.

    Raises:
        InvalidRequest: The size is none.
    """
    width, height = _sides(body.size)
    notes = {"user": body.user, "safety_identifier": body.safety_identifier}
    return CreateGeneration(
        model=model.id,
        prompt=body.prompt,
        n=body.n or 1,
        width=width,
        height=height,
        quality=_QUALITIES.get(body.quality or "auto", body.quality),
        output_format=body.output_format,
        background=body.background,
        metadata={name: text for name, text in notes.items() if text},
    )


def _sides(size: str | None) -> tuple[int | None, int | None]:
    if size is None or size == "auto":
        return None, None
    found = _SIZE.fullmatch(size)
    if found is None or max(int(found[1]), int(found[2])) > 65_536:  # noqa: PLR2004 - as in CreateGeneration
        raise InvalidRequest("A size is `auto`, or looks like 1024x1024.", param="size")
    return int(found[1]), int(found[2])


def looks(record: Record) -> dict[str, str]:
    """Return what the images of a job look like, in OpenAI's words."""
    params = record.job.params
    return {
        "background": params.background or "auto",
        "output_format": params.output_format or "png",
        "quality": params.quality or "auto",
        "size": f"{params.width}x{params.height}",
    }


def response_of(record: Record, data: Sequence[ImageData]) -> ImagesResponse:
    """Return a settled job as OpenAI's client reads it."""
    job = record.job
    return ImagesResponse(
        created=int(job.created_at.timestamp()),
        data=list(data),
        usage=Usage(credits=job.n * job.credits_per_image - refunded_credits(job)),
        job_id=str(job.job_id),
        model=job.model,
        **looks(record),
    )


def completed_event(record: Record, image: Image, data: ImageData) -> dict[str, Any]:
    """Return what a stream says of an image that is stored."""
    return {
        "type": "image_generation.completed",
        **data.model_dump(),
        **looks(record),
        "created_at": int(image.created_at.timestamp()),
        "usage": Usage(credits=record.job.credits_per_image).model_dump(),
        "index": image.index,
        "job_id": str(record.job.job_id),
    }


def dressed(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem body with OpenAI's `error` beside its members, and OpenAI's status."""
    code = problem["code"]
    status = problem["status"]
    kind = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    status, kind, theirs = _SAID.get(code, (status, kind, code))
    if code == "content_rejected" and str(problem.get("model", "")).startswith(_OLDER):
        status, kind, theirs = _REJECTED_BY_OLDER
    fields: Sequence[Mapping[str, str]] = problem.get("errors") or ({},)
    param = fields[0].get("field")
    if "Extra inputs" in fields[0].get("message", ""):
        theirs = "unknown_parameter"
    message = problem["detail"]
    if told := fields[0].get("message"):
        message = told if len(fields) == 1 else message
    error = {"message": message, "type": kind, "param": _FIELDS.get(param or "", param), "code": theirs}
    return {**problem, "status": status, "error": error}


def worth_repeating(problem: Mapping[str, Any]) -> bool:
    """Whether the same request may do better in a moment. One whose job has failed does not: it finds that job."""
    if "job_id" in problem:
        return False
    return problem["code"] in _PASSES or problem["status"] >= _SERVER_ERROR


def why_failed(record: Record) -> tuple[str, str]:
    """Return the code and the words for a job that has made nothing: what its user can mend comes first."""
    if record.job.status == "canceled":
        return "canceled", OUTCOMES["canceled"].message
    failures = [(slot.code, slot.message or OUTCOMES[slot.code].message) for slot in record.job.slots if slot.code]
    mendable = [failure for failure in failures if OUTCOMES[failure[0]].fault == "user"]
    return (mendable or failures or [("internal_error", OUTCOMES["internal_error"].message)])[0]
