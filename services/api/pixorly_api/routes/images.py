"""Images over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from pixorly.events import Visibility
from pixorly_api import store, views
from pixorly_api.edge import JsonRoute
from pixorly_api.errors import NotFound
from pixorly_api.fields import Moment
from pixorly_api.parts import Cursor, Download, ImageId, Limit, LinkTerms, Maker, P, Reader, page, read_cursor
from pixorly_api.problems import documented
from pixorly_api.schemas import ChangeImage, DeletedImages, DeleteImages, ImageList, StoredImageOut
from pixorly_api.store import ImageFilters

router = APIRouter(prefix="/v1/images", tags=["images"], route_class=JsonRoute)


@router.get(
    "",
    operation_id="listImages",
    summary="List images, newest first",
    responses=documented(401, 403, 422, 429, 500, 503),
)
async def list_all(
    *,
    parts: P,
    caller: Reader,
    terms: LinkTerms,
    download: Download = False,
    generation_id: Annotated[UUID | None, Query(description="Only those of this job.")] = None,
    model: Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00-\x1f]+$")] = None,
    visibility: Annotated[Visibility | None, Query()] = None,
    created_after: Annotated[Moment | None, Query()] = None,
    created_before: Annotated[Moment | None, Query()] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> ImageList:
    """Return a page of the caller's images, with fresh links; new ones do not shift the pages that follow."""
    filters = ImageFilters(generation_id, model, visibility, created_after, created_before)
    async with parts.database.connection() as connection:
        found = await store.list_images(connection, caller.user_id, filters, read_cursor(cursor), limit + 1)
    shown, following = page(found, limit, lambda image: image.image_id)
    return ImageList(data=await views.images(shown, parts.links, terms, download=download), next_cursor=following)


@router.get(
    "/{image_id}",
    operation_id="getImage",
    summary="Read an image",
    responses=documented(401, 403, 404, 422, 429, 500, 503),
)
async def get(
    parts: P, caller: Reader, image_id: ImageId, terms: LinkTerms, *, download: Download = False
) -> StoredImageOut:
    """Return an image, with fresh links."""
    async with parts.database.connection() as connection:
        found = await store.image(connection, caller.user_id, image_id)
    if found is None:
        raise NotFound
    return (await views.images([found], parts.links, terms, download=download))[0]


@router.patch(
    "/{image_id}",
    operation_id="changeImage",
    summary="Make an image public or private",
    responses=documented(401, 403, 404, 413, 422, 429, 500, 503),
)
async def change(parts: P, caller: Maker, image_id: ImageId, body: ChangeImage) -> StoredImageOut:
    """Say who may read an image. It moves soon after: until `moving` is false, its links lead to where it was."""
    image = await parts.images.set_visibility(caller.user_id, image_id, body.visibility)
    return (await views.images([image], parts.links))[0]


@router.delete(
    "/{image_id}",
    operation_id="deleteImage",
    summary="Delete an image",
    status_code=204,
    response_class=Response,
    responses=documented(401, 403, 404, 413, 422, 429, 500, 503),
)
async def delete(parts: P, caller: Maker, image_id: ImageId) -> None:
    """Have an image removed for good, and its storage freed. A repeat changes nothing."""
    if not await parts.images.delete(caller.user_id, [image_id]):
        raise NotFound


@router.post(
    "/delete",
    operation_id="deleteImages",
    summary="Delete up to 100 images",
    responses=documented(401, 403, 413, 422, 429, 500, 503),
)
async def delete_many(parts: P, caller: Maker, body: DeleteImages) -> DeletedImages:
    """Have images removed for good, all at once or none. A repeat changes nothing and answers the same."""
    deleted = await parts.images.delete(caller.user_id, body.ids)
    missing = [image_id for image_id in dict.fromkeys(body.ids) if image_id not in set(deleted)]
    return DeletedImages(deleted=deleted, not_found=missing)
