"""What can be asked of the API: one function per call builds the request and knows how to read its answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from math import ceil
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote
from uuid import uuid4

from pixorly_client.models import (
    Account,
    DeletedImages,
    Generation,
    Image,
    Model,
    Page,
    Receipt,
    Timeline,
    Transaction,
    Usage,
)

T = TypeVar("T")
When = datetime | date | str


class Wishes(TypedDict, total=False):
    """What may be asked of the images besides the prompt; what is left out is the model's default.

    A size is given as `width` and `height` or as an `aspect_ratio`.
    """

    model: str
    fallback_models: Sequence[str]
    n: int
    width: int
    height: int
    aspect_ratio: str
    quality: str
    output_format: Literal["png", "jpeg", "webp"]
    background: Literal["auto", "transparent", "opaque"]
    seed: int
    metadata: Mapping[str, str]
    deadline_s: int
    visibility: Literal["private", "public"]


class Filters(TypedDict, total=False):
    """Which jobs are asked for, and how many at once."""

    status: str
    model: str
    created_after: When
    created_before: When
    limit: int
    cursor: str


class ImageFilters(TypedDict, total=False):
    """Which images are asked for, how many at once, and for how long their links are to be good."""

    generation_id: str
    model: str
    visibility: Literal["private", "public"]
    created_after: When
    created_before: When
    expires_in: int
    limit: int
    cursor: str


class Paging(TypedDict, total=False):
    """Which part of a list is asked for."""

    limit: int
    cursor: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, whole and ready to be sent again.

    Attributes:
        path: Where it goes below the API's address, or the whole address of a link.
        read: Makes a value of the answer's body.
        repeatable: Whether sending it twice does no more than sending it once.
        done_when_gone: Whether a repeat that is answered 404 has reached its goal: an earlier try did.
        waits_s: How much longer than usual the answer may take.
        is_link: Whether it goes to where the image lies, which must not see the API's key.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    done_when_gone: bool = False
    waits_s: float = 0
    is_link: bool = False


def create_generation(
    prompt: str, wishes: Wishes, idempotency_key: str | None = None, wait_s: float | None = None
) -> Call[Generation]:
    """Ask for a job; the idempotency key makes a repeat harmless."""
    headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
    if wait_s is not None:
        headers["Prefer"] = f"wait={ceil(wait_s)}"
    body = {"prompt": prompt, **wishes}
    read = Generation.model_validate_json
    return Call("POST", "/v1/generations", read, json=body, headers=headers, waits_s=wait_s or 0)


def get_generation(job_id: str) -> Call[Generation]:
    """Ask for a job."""
    return Call("GET", f"/v1/generations/{_part(job_id)}", Generation.model_validate_json)


def list_generations(filters: Filters) -> Call[Page[Generation]]:
    """Ask for the caller's jobs, newest first."""
    return Call("GET", "/v1/generations", Page[Generation].model_validate_json, _query(filters))


def cancel_generation(job_id: str) -> Call[Generation]:
    """Ask to cancel a job; never repeated, for a second answer would not say what the first did."""
    path = f"/v1/generations/{_part(job_id)}/cancel"
    return Call("POST", path, Generation.model_validate_json, repeatable=False)


def generation_events(job_id: str, last_event_id: str | None = None) -> Call[None]:
    """Ask for the news of a job as they come."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    return Call("GET", f"/v1/generations/{_part(job_id)}/events", _nothing, headers=headers)


def get_receipt(job_id: str) -> Call[Receipt]:
    """Ask who paid what for a job."""
    return Call("GET", f"/v1/generations/{_part(job_id)}/receipt", Receipt.model_validate_json)


def get_timeline(job_id: str) -> Call[Timeline]:
    """Ask what happened to a job, and when."""
    return Call("GET", f"/v1/generations/{_part(job_id)}/timeline", Timeline.model_validate_json)


def list_images(filters: ImageFilters) -> Call[Page[Image]]:
    """Ask for the caller's images, newest first."""
    return Call("GET", "/v1/images", Page[Image].model_validate_json, _query(filters))


def get_image(image_id: str, expires_in: int | None = None) -> Call[Image]:
    """Ask for an image, with fresh links that are good for so many seconds."""
    query = _query({"expires_in": expires_in})
    return Call("GET", f"/v1/images/{_part(image_id)}", Image.model_validate_json, query)


def change_image(image_id: str, visibility: str) -> Call[Image]:
    """Ask to make an image public or private."""
    body = {"visibility": visibility}
    return Call("PATCH", f"/v1/images/{_part(image_id)}", Image.model_validate_json, json=body)


def delete_images(image_ids: Sequence[str]) -> Call[DeletedImages]:
    """Ask to delete up to 100 images."""
    return Call("POST", "/v1/images/delete", DeletedImages.model_validate_json, json={"ids": list(image_ids)})


def delete_image(image_id: str) -> Call[None]:
    """Ask to delete an image."""
    return Call("DELETE", f"/v1/images/{_part(image_id)}", _nothing, done_when_gone=True)


def follow_link(url: str) -> Call[bytes]:
    """Ask for the bytes behind a link."""
    return Call("GET", url, bytes, headers={"Accept": "*/*"}, is_link=True)


def get_account() -> Call[Account]:
    """Ask for the caller's account."""
    return Call("GET", "/v1/account", Account.model_validate_json)


def get_usage(from_: When | None, to: When | None, group_by: str | None) -> Call[Usage]:
    """Ask what the caller used."""
    return Call("GET", "/v1/usage", Usage.model_validate_json, _query({"from": from_, "to": to, "group_by": group_by}))


def list_transactions(paging: Paging) -> Call[Page[Transaction]]:
    """Ask for the movements of the caller's credits, newest first."""
    return Call("GET", "/v1/transactions", Page[Transaction].model_validate_json, _query(paging))


def list_models() -> Call[list[Model]]:
    """Ask for the models on offer."""
    return Call("GET", "/v1/models", lambda body: Page[Model].model_validate_json(body).data)


def _part(value: str) -> str:
    """Return an id as one part of a path, whatever is in it."""
    return quote(value, safe="")


def _nothing(_: bytes) -> None:
    return None


def _query(filters: Mapping[str, object]) -> dict[str, str]:
    """Return what was given as a query; times as RFC 3339."""
    return {
        name: value.isoformat() if isinstance(value, date) else str(value)
        for name, value in filters.items()
        if value is not None
    }
