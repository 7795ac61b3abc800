"""What comes in over HTTP."""

from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

_MOST_CREDITS: Final = 10**12
_MOST_BYTES: Final = 10**15

Text = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _In(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ImageIn(_In):
    """An image that room is kept for."""

    image_id: UUID
    estimate_bytes: int = Field(ge=0, le=_MOST_BYTES)


class ChargeIn(_In):
    """A job that is to be charged; images in the order of their slots."""

    job_id: UUID
    user_id: Text
    amount_credits: int = Field(ge=0, le=_MOST_CREDITS)
    images: list[ImageIn] = Field(min_length=1, max_length=100)


class VoidIn(_In):
    """A job that was given up."""

    user_id: Text | None = None


class TrueUpIn(_In):
    """What an image really takes: original and thumbnails."""

    bytes: int = Field(ge=0, le=_MOST_BYTES)
    user_id: Text
    job_id: UUID | None = None


class TrueUpOfImageIn(TrueUpIn):
    """The same, where one request is for several images."""

    image_id: UUID


class ReleaseIn(_In):
    """Images that are gone."""

    image_ids: list[UUID] = Field(max_length=10_000)


class TermsIn(_In):
    """What an account is to be; what is left out stays as it is."""

    plan: Text | None = None
    status: Literal["active", "suspended"] | None = None
    allowance: bool | None = None


class GrantIn(_In):
    """What a user is to be given."""

    grant_id: Text
    amount_credits: int = Field(ge=1, le=_MOST_CREDITS)
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] | None = None
    expires_at: AwareDatetime | None = None
    kind: Literal["grant", "purchase"] = "grant"
