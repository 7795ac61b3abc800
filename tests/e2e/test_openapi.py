"""What the API says of itself holds: requests that schemathesis makes up from its OpenAPI never break it."""

import asyncio
from typing import Any, Final

import pytest
import schemathesis
from api_world import make_settings
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks as openapi_checks
from stack import Stack

from pixorly_api.app import make_app

pytestmark = pytest.mark.timeout(300)
_EXAMPLES: Final = 5
_WITHOUT_END: Final = "/v1/events"
_CHECKS: Final = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.unsupported_method,
]


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """A user's key; the credits bound how many jobs a run makes."""
    _, made = asyncio.run(stack.user(amount_credits=300))
    return str(made)


def operations() -> list[Any]:
    """Return every call that has an end."""
    said = schemathesis.openapi.from_dict(make_app(make_settings()).openapi())
    return [found.ok() for found in said.exclude(path=_WITHOUT_END).get_all_operations()]


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_no_request_that_can_be_made_up_breaks_the_api(
    operation: Any, stack: Stack, key: str, pytestconfig: pytest.Config
) -> None:
    """The same requests each time; with `--hypothesis-seed`, others."""
    seeded = pytestconfig.getoption("hypothesis_seed") is not None
    bearer = stack.dev["admin_key"] if operation.path.startswith("/admin/") else key

    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        derandomize=not seeded,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def hold(case: Any) -> None:
        case.call_and_validate(
            base_url=stack.dev["api_url"],
            headers={"Authorization": f"Bearer {bearer}"},
            checks=_CHECKS,
            timeout=70,
        )

    hold()
