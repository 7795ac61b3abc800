"""The one shape of every error."""

import re
from pathlib import Path

import orjson
import pytest

import pixorly_api.errors
import pixorly_api.ledger
from pixorly import errors as shared
from pixorly.catalogue import UnknownModel
from pixorly.errors import InsufficientCredits, InvalidRequest, OutageError, PixorlyError, ServerError
from pixorly.outcomes import OUTCOMES
from pixorly_api.errors import IdempotencyInProgress, Unauthorized
from pixorly_api.problems import describe, documented, refusal, respond


def test_a_problem_has_all_that_the_standard_asks_for() -> None:
    body = describe(InsufficientCredits(needed_credits=10, available_credits=4), "r1")
    assert body == {
        "type": "urn:pixorly:error:insufficient_credits",
        "title": "There are not enough credits for this job.",
        "status": 402,
        "detail": "There are not enough credits for this job.",
        "code": "insufficient_credits",
        "request_id": "r1",
        "needed_credits": 10,
        "available_credits": 4,
    }


def test_a_refused_field_is_named() -> None:
    body = describe(UnknownModel("No such model.", param="model", near=["a"]), "r1")
    assert (body["status"], body["code"]) == (422, "unknown_model")
    assert body["errors"] == [{"field": "model", "message": "No such model."}]


def test_what_failed_on_our_side_is_not_told() -> None:
    body = describe(ServerError("password=hunter2", secret="x"), "r1")
    assert (body["status"], body["code"]) == (500, "internal_error")
    assert "hunter2" not in str(body)


def test_a_code_that_nobody_knows_is_an_internal_error_without_facts() -> None:
    class Odd(PixorlyError):
        """Odd."""

        code = "odd"

    body = describe(Odd("secret", secret="s"), "r1")
    assert (body["code"], body["status"]) == ("internal_error", 500)
    assert "secret" not in str(body)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (OutageError("postgres"), 503, "2"),
        (OutageError("ledger", retry_after_s=7), 503, "7"),
        (IdempotencyInProgress(retry_after_s=1), 409, "1"),
        (InvalidRequest(), 422, None),
    ],
)
def test_who_may_come_back_is_told_when(error: PixorlyError, status: int, retry_after: str | None) -> None:
    answer = respond(error, "r1")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "r1"
    assert orjson.loads(answer.body)["code"] == error.code


def test_who_has_no_key_is_told_how_to_show_one() -> None:
    assert respond(Unauthorized(), "r").headers["www-authenticate"].startswith("Bearer")


def test_a_failed_validation_names_each_field_and_no_value() -> None:
    error = refusal(
        [
            {"loc": ("body", "n"), "msg": "Input should be less than or equal to 10", "input": "secret"},
            {"loc": ("body", "metadata", "k", "[key]"), "msg": "too long"},
            {"loc": ("body",), "msg": "Field required"},
        ]
    )
    body = describe(error, "r")
    assert [entry["field"] for entry in body["errors"]] == ["n", "metadata.k", "body"]
    assert "secret" not in str(body)


def test_very_many_bad_fields_make_no_long_answer() -> None:
    error = refusal([{"loc": ("body", "x" * 10_000), "msg": "y" * 10_000}] * 1000)
    assert len(str(describe(error, "r"))) < 20_000


@pytest.mark.parametrize("module", [pixorly_api.errors, shared])
def test_every_code_that_is_raised_stands_in_the_table(module: object) -> None:
    codes = re.findall(r'code(?:: ClassVar\[str\])? = "(\w+)"', Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    assert codes
    assert set(codes) <= set(OUTCOMES)


def test_openapi_says_which_codes_a_status_carries() -> None:
    assert "`insufficient_credits`" in documented(402)[402]["description"]
    assert "deadline_exceeded" not in str(documented(504 - 1)[503]["description"])
