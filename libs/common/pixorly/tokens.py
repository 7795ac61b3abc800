"""The tokens by which services know each other: the one in use, and while it is changed a second one."""

import hmac

from pydantic import SecretStr


class Tokens:
    """What opens a service's internal calls.

    Args:
        tokens: Any of them does; one that is empty or not set does not.
    """

    def __init__(self, *tokens: SecretStr | None) -> None:
        given = [token.get_secret_value() for token in tokens if token]
        self._expected = [f"Bearer {token}".encode() for token in given if token]

    def __bool__(self) -> bool:
        """Tell whether there is one."""
        return bool(self._expected)

    def open(self, authorization: bytes) -> bool:
        """Tell whether a header shows one of them."""
        # All are compared, so that the time that it takes says nothing.
        return sum(hmac.compare_digest(authorization, expected) for expected in self._expected) > 0
