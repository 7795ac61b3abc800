"""Circuit breakers and limits: what stands between a job and a provider that is away or full.

A breaker stands before each model, and one before our whole account at the provider. An open breaker makes calls wait
(`OutageError`) instead of burning their retries; after a while one call is let through as a probe.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import Gauge

from pixorly import metrics
from pixorly.errors import (
    OutageError,
    PixorlyError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
)

Clock = Callable[[], float]

BREAKER_OPEN = metrics.gauge(
    "pixorly_provider_breaker_open", "1 while calls wait; the model `*` is the whole account.", "provider", "model"
)
ACCOUNT_FAULTS = metrics.counter(
    "pixorly_provider_account_faults",
    "Answers that say that our own account is not in order: a person must see to it.",
    "provider",
    "reason",
)

_ACCOUNT: Final = "*"
_PROBE_S: Final = 1.0
"""While a probe is under way, the others are told to come back after this."""
_LONGEST_HOLD_S: Final = 60.0


class AccountAway(OutageError):
    """Our account at the provider is not in order.

    Args:
        provider: The adapter's name.
        reason: For the metric: `key`, `money` or `budget`.
        retry_after_s: When it will be, where the provider says so.
    """

    def __init__(self, provider: str, reason: str, *, retry_after_s: float | None = None) -> None:
        message = f"Our account at {provider} is not in order: {reason}."
        super().__init__(f"provider:{provider}", message, retry_after_s=retry_after_s)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a breaker opens, and for how long.

    Attributes:
        failures: At least so many failures within the window.
        ratio: And at least this part of all calls in the window.
        window_s: How far back it looks.
        open_s: How long it stays open at first; each probe that fails doubles it.
        longest_s: The longest that it stays open.
    """

    failures: int = 20
    ratio: float = 0.8
    window_s: float = 30.0
    open_s: float = 5.0
    longest_s: float = 30.0


MODEL_RULE: Final = BreakerRule()
ACCOUNT_RULE: Final = BreakerRule(failures=1, longest_s=60)


class Breaker:
    """One breaker: closed, open for a while, or waiting for its probe.

    A call is given a ticket; what comes of a call whose ticket is old, because the breaker has opened since, says
    nothing about how things are now.

    Args:
        part: What is away while it is open.
        rule: When it opens, and for how long.
        gauge: Shows whether it is open.
        clock: The time, in seconds.
    """

    def __init__(self, part: str, rule: BreakerRule, gauge: Gauge, clock: Clock = time.monotonic) -> None:
        self._part = part
        self._rule = rule
        self._gauge = gauge
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()
        self._ticket = 0
        self._open_until: float | None = None
        self._open_s = rule.open_s
        self._probing = False
        self._hold_until = 0.0
        gauge.set(0)

    def enter(self) -> int:
        """Return the ticket of a call that may be made now; where a probe is due, this call is it.

        Raises:
            OutageError: It may not; `retry_after_s` says when to ask again.
        """
        now = self._clock()
        if now < self._hold_until:
            raise OutageError(self._part, retry_after_s=self._hold_until - now)
        if self._open_until is not None:
            if now < self._open_until:
                raise OutageError(self._part, retry_after_s=self._open_until - now)
            if self._probing:
                raise OutageError(self._part, retry_after_s=_PROBE_S)
            self._probing = True
            self._ticket += 1
        return self._ticket

    def succeeded(self, ticket: int) -> None:
        """Note a call that shows that the part is there."""
        if ticket != self._ticket:
            return
        if self._open_until is not None:
            self._calls.clear()
            self._open_until, self._open_s, self._probing = None, self._rule.open_s, False
            self._gauge.set(0)
        self._note(failed=False)

    def failed(self, ticket: int) -> None:
        """Note a call that shows that the part may be away, and open if there were too many."""
        if ticket != self._ticket:
            return
        self._note(failed=True)
        failures = sum(failed for _, failed in self._calls)
        if self._probing or (failures >= self._rule.failures and failures >= self._rule.ratio * len(self._calls)):
            self.trip(ticket)

    def left(self, ticket: int) -> None:
        """Note a call that ended without a verdict."""
        if ticket == self._ticket:
            self._probing = False

    def trip(self, ticket: int, open_s: float | None = None) -> None:
        """Open at once, for `open_s` or the rule's time; twice as long after each probe that fails."""
        if ticket != self._ticket:
            return
        if self._probing:
            self._open_s = min(self._rule.longest_s, self._open_s * 2)
        asked_s = self._open_s if open_s is None else min(max(open_s, self._rule.open_s), self._rule.longest_s)
        self._open_until = self._clock() + asked_s
        self._probing = False
        self._ticket += 1
        self._gauge.set(1)

    def hold(self, hold_s: float) -> None:
        """Let no call through for a moment: the provider asked everyone to slow down."""
        self._hold_until = max(self._hold_until, self._clock() + min(hold_s, _LONGEST_HOLD_S))

    def _note(self, *, failed: bool) -> None:
        now = self._clock()
        self._calls.append((now, failed))
        while self._calls and self._calls[0][0] < now - self._rule.window_s:
            self._calls.popleft()


class Gates:
    """Every breaker and limit of one provider.

    Args:
        provider: The adapter's name.
        limits: The most calls at once, by model; a model that is not named has no limit.
        rule: When a model's breaker opens.
        account_rule: For how long the account's stays open.
        clock: The time, in seconds.
    """

    def __init__(
        self,
        provider: str,
        *,
        limits: Mapping[str, int] | None = None,
        rule: BreakerRule = MODEL_RULE,
        account_rule: BreakerRule = ACCOUNT_RULE,
        clock: Clock = time.monotonic,
    ) -> None:
        self._provider = provider
        self._rule = rule
        self._clock = clock
        self._limits = {model: asyncio.Semaphore(limit) for model, limit in (limits or {}).items()}
        self._account = self._breaker(_ACCOUNT, account_rule)
        self._models: dict[str, Breaker] = {}

    def _breaker(self, model: str, rule: BreakerRule) -> Breaker:
        part = f"provider:{self._provider}" + ("" if model == _ACCOUNT else f"/{model}")
        return Breaker(part, rule, BREAKER_OPEN.labels(self._provider, model), self._clock)

    @asynccontextmanager
    async def passed(self, model: str, wait_s: float) -> AsyncIterator[None]:
        """Let one call to `model` through, and learn from how it ends.

        Args:
            model: Which model.
            wait_s: How long the call may wait for its place.

        Raises:
            OutageError: The account or the model is away, or the model stayed full.
        """
        async with self._place(model, wait_s):
            call = self._enter(model)
            try:
                yield
            except PixorlyError as error:
                self._learn(call, error)
                raise
            except BaseException:
                call.left()
                raise
            call.succeeded()

    def _enter(self, model: str) -> "_Call":
        if model not in self._models:
            self._models[model] = self._breaker(model, self._rule)
        account_ticket = self._account.enter()
        try:
            return _Call(self._account, account_ticket, self._models[model], self._models[model].enter())
        except OutageError:
            self._account.left(account_ticket)
            raise

    @asynccontextmanager
    async def _place(self, model: str, wait_s: float) -> AsyncIterator[None]:
        limit = self._limits.get(model)
        if limit is None:
            yield
            return
        try:
            async with asyncio.timeout(wait_s):
                await limit.acquire()
        except TimeoutError as error:
            part = f"provider:{self._provider}/{model}"
            raise OutageError(part, f"{model} is full.", retry_after_s=_PROBE_S) from error
        try:
            yield
        finally:
            limit.release()

    def _learn(self, call: "_Call", error: PixorlyError) -> None:
        if isinstance(error, AccountAway):
            ACCOUNT_FAULTS.labels(self._provider, error.reason).inc()
            call.account.trip(call.account_ticket, error.retry_after_s)
            call.model.left(call.model_ticket)
        elif isinstance(error, ProviderUnavailable | ProviderTimeout | ProviderRateLimited):
            # Nobody was asked about our account, so nothing is learned of it.
            call.account.left(call.account_ticket)
            call.model.failed(call.model_ticket)
            if isinstance(error, ProviderRateLimited) and error.retry_after_s:
                call.model.hold(error.retry_after_s)
        else:
            call.succeeded()


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that was let through, with its tickets."""

    account: Breaker
    account_ticket: int
    model: Breaker
    model_ticket: int

    def succeeded(self) -> None:
        self.account.succeeded(self.account_ticket)
        self.model.succeeded(self.model_ticket)

    def left(self) -> None:
        self.account.left(self.account_ticket)
        self.model.left(self.model_ticket)
