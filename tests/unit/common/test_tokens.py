"""Two tokens open a door while one is changed for the other."""

import pytest
from pydantic import SecretStr

from pixorly.tokens import Tokens


@pytest.mark.parametrize(
    ("shown", "opens"),
    [
        ("Bearer old", True),
        ("Bearer new", True),
        ("Bearer other", False),
        ("Bearer ", False),
        ("", False),
        ("old", False),
    ],
)
def test_the_old_and_the_new_token_open_and_nothing_else(shown: str, opens: bool) -> None:  # noqa: FBT001 - a row
    tokens = Tokens(SecretStr("old"), SecretStr("new"))

    assert tokens.open(shown.encode()) is opens


def test_a_token_that_is_not_set_opens_nothing() -> None:
    tokens = Tokens(SecretStr(""), None)

    assert not tokens
    assert not tokens.open(b"Bearer ")
