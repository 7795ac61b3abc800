"""Images over HTTP."""

from fastapi import APIRouter, Response

from pixorly_api import store, views
from pixorly_api.edge import JsonRoute
from pixorly_api.errors import NotFound
from pixorly_api.parts import Cursor, ImageId, Limit, Maker, P, Reader, page, read_cursor
from pixorly_api.problems import documented
from pixorly_api.schemas import ImageList, StoredImageOut

router = APIRouter(prefix="/v1/images", tags=["images"], route_class=JsonRoute)


@router.get(
    "",
    operation_id="listImages",
    summary="List images, newest first",
    responses=documented(401, 403, 422, 429, 500, 503),
)
async def list_all(parts: P, caller: Reader, limit: Limit = 20, cursor: Cursor = None) -> ImageList:
    """Return a page of the caller's images, with fresh links."""
    async with parts.database.connection() as connection:
        found = await store.list_images(connection, caller.user_id, read_cursor(cursor), limit + 1)
    shown, following = page(found, limit, lambda image: image.image_id)
    return ImageList(data=await views.images(shown, parts.links), next_cursor=following)


@router.get(
    "/{image_id}",
    operation_id="getImage",
    summary="Read an image",
    responses=documented(401, 403, 404, 422, 429, 500, 503),
)
async def get(parts: P, caller: Reader, image_id: ImageId) -> StoredImageOut:
    """Return an image, with fresh links."""
    async with parts.database.connection() as connection:
        found = await store.image(connection, caller.user_id, image_id)
    if found is None:
        raise NotFound
    return (await views.images([found], parts.links))[0]


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
    await parts.jobs.delete_image(caller.user_id, image_id)
