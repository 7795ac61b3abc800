"""What the client's tests share."""

from collections.abc import Iterator

import pytest
from fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """Return an API that answers with what the test gives it, all of it."""
    fake = FakeApi()
    yield fake
    assert not fake.answers, "the client did not ask for everything"
