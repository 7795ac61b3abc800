"""Random interleavings of everything that the ledger does, with repeats and reorderings, against a model.

The ledger runs on a real PostgreSQL. Each example uses users of its own in one database, whose audit must be clean at
the end of each.
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from ledger_model import LedgerModel
from ledger_world import START, World, ledger_world, request, settlement

from pixorly.errors import UserError
from pixorly.ids import new_id
from pixorly_ledger.accounts import Terms
from pixorly_ledger.credits import ChargeRequest

CODES = (None, "provider_timeout", "content_rejected", "canceled", "made_up")
users = st.sampled_from(("ada", "ada", "ada", "bob", "eve"))
jobs = st.integers(0, 10**6)
shapes = st.tuples(st.integers(0, 12), st.integers(1, 4), st.integers(0, 200))
"""Credits for one image, images, bytes for one."""
endings = st.lists(st.sampled_from(CODES), min_size=4, max_size=4)
sizes = st.integers(0, 300)


class LedgerMachine(RuleBasedStateMachine):
    """Does to the ledger and to the model the same, and compares after each step."""

    def __init__(self, world: World, runner: asyncio.Runner) -> None:
        super().__init__()
        self.world = world
        self.runner = runner
        self.model = LedgerModel()
        self.prefix = f"{new_id()}-"
        self.requests: list[ChargeRequest] = []
        world.clock.now = START

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @property
    def now(self) -> Any:
        return self.world.clock.now

    @initialize(plan=st.sampled_from(["bare", "free", "pro"]), lots=st.lists(st.integers(1, 20), max_size=4))
    def open_one(self, plan: str, lots: list[int]) -> None:
        self.put("ada", plan, None)
        for number, amount in enumerate(lots):
            self.grant("ada", 100 + number, amount, 20 + 20 * number)

    @rule(
        user=users,
        plan=st.sampled_from([None, "free", "pro", "bare"]),
        status=st.sampled_from([None, "active", "active", "suspended"]),
    )
    def put(self, user: str, plan: str | None, status: str | None) -> None:
        user = self.prefix + user
        self.run(self.world.accounts.put(user, Terms(plan, status)))
        self.model.put(user, self.now, plan, status)
        self.compare(user)

    @rule(user=users, name=st.integers(0, 20), amount=st.integers(1, 30), hours=st.sampled_from([None, 1, 30, 400]))
    def grant(self, user: str, name: int, amount: int, hours: int | None) -> None:
        user = self.prefix + user
        if account := self.model.accounts.get(user):
            ends = self.now + timedelta(hours=hours) if hours else None
            expected = self.model.give(account, "grant", str(name), amount, ends)
            days = hours / 24 if hours else None
            assert self.run(self.world.grant(user, amount, grant_id=str(name), days=days)) == expected
            self.compare(user)

    @rule(user=users, shape=shapes)
    def charge(self, user: str, shape: tuple[int, int, int]) -> None:
        self.charge_all([self.new_request(user, shape)])

    @rule(batch=st.lists(st.tuples(users, shapes, st.integers(0, 8)), min_size=2, max_size=12))
    def charge_many_at_once(self, batch: list[tuple[str, tuple[int, int, int], int]]) -> None:
        """Some of them are repeats of earlier ones."""
        wanted: list[ChargeRequest] = []
        for user, shape, repeat in batch:
            again = repeat < min(3, len(self.requests))
            wanted.append(self.requests[-1 - repeat] if again else self.new_request(user, shape))
        self.charge_all(wanted)

    def new_request(self, user: str, shape: tuple[int, int, int]) -> ChargeRequest:
        price, images, size = shape
        wanted = request(self.prefix + user, price * images, images, size)
        self.requests.append(wanted)
        return wanted

    def charge_all(self, wanted: list[ChargeRequest]) -> None:
        # All accounts of a group lose what expired, even before the first is answered.
        for user in {each.user_id for each in wanted} & self.model.accounts.keys():
            self.model.accounts[user].expire(self.now)
        expected = [self.model.charge(each, self.now) for each in wanted]

        async def at_once() -> list[Any]:
            return await asyncio.gather(*(self.world.credits.charge(each) for each in wanted), return_exceptions=True)

        answers = self.run(at_once())
        assert [each.code if isinstance(each, UserError) else each.balance_credits for each in answers] == expected
        for user in {each.user_id for each in wanted}:
            self.compare(user)

    @precondition(lambda self: self.open_requests())
    @rule(job=jobs, codes=endings, hours=st.sampled_from([0, 0, 24]))
    def settle_an_open_one(self, job: int, codes: list[str | None], hours: int) -> None:
        waiting = self.open_requests()
        self.world.clock.advance(hours=hours)
        self.settle_one(waiting[job % len(waiting)], codes, 1)

    def open_requests(self) -> list[ChargeRequest]:
        return [charge.request for charge in self.model.charges.values() if charge and charge.status == "open"]

    @precondition(lambda self: self.requests)
    @rule(job=jobs, codes=endings, times=st.integers(1, 3))
    def settle(self, job: int, codes: list[str | None], times: int) -> None:
        """A repeat may even say something else: it changes nothing."""
        self.settle_one(self.requests[job % len(self.requests)], codes, times)

    def settle_one(self, wanted: ChargeRequest, codes: list[str | None], times: int) -> None:
        codes = codes[: len(wanted.images)]
        charge = self.model.charges.get(wanted.job_id)
        for (image_id, size), code in zip(wanted.images, codes, strict=True):
            if charge and charge.status == "open" and code is None:
                # Nothing is told to be uploaded before its room is trued up.
                self.model.true_up(image_id, size)
                self.run(self.world.storage.true_up(image_id, wanted.user_id, size))
        expected = sorted(self.model.settle(wanted.job_id, codes, self.now) for _ in range(times))
        ended = settlement(wanted, codes, self.now)

        async def at_once() -> list[str]:
            return sorted(await asyncio.gather(*(self.world.credits.settle(ended) for _ in range(times))))

        assert self.run(at_once()) == expected
        self.compare(wanted.user_id)

    @precondition(lambda self: self.requests)
    @rule(job=jobs, with_user=st.booleans())
    def void(self, job: int, with_user: bool) -> None:  # noqa: FBT001 - hypothesis names it
        wanted = self.requests[job % len(self.requests)]
        expected = self.model.void(wanted.job_id, self.now)
        assert self.run(self.world.credits.void(wanted.job_id, wanted.user_id if with_user else None)) == expected
        self.compare(wanted.user_id)

    @rule(user=users, shape=shapes)
    def void_before_the_charge(self, user: str, shape: tuple[int, int, int]) -> None:
        wanted = self.new_request(user, shape)
        assert self.run(self.world.credits.void(wanted.job_id)) == self.model.void(wanted.job_id, self.now)

    @precondition(lambda self: self.model.images)
    @rule(image=jobs, size=sizes, times=st.integers(1, 2))
    def true_up(self, image: int, size: int, times: int) -> None:
        image_id = self.image(image)
        user = self.model.images[image_id].user_id
        for _ in range(times):
            assert self.run(self.world.storage.true_up(image_id, user, size)) == self.model.true_up(image_id, size)
        self.compare(user)

    @precondition(lambda self: self.model.images)
    @rule(images=st.lists(jobs, max_size=4))
    def release(self, images: list[int]) -> None:
        ids = [*{self.image(image) for image in images}, new_id()]
        assert set(self.run(self.world.storage.release(ids))) == self.model.release(ids)
        for user in self.model.accounts:
            self.compare(user)

    def image(self, number: int) -> UUID:
        return list(self.model.images)[number % len(self.model.images)]

    @rule(hours=st.sampled_from([1, 23, 25, 24 * 9, 24 * 31]))
    def time_goes_by(self, hours: int) -> None:
        self.world.clock.advance(hours=hours)

    @rule()
    def expire(self) -> None:
        self.run(self.world.accounts.expire_lots())
        self.model.expire_all(self.now)
        self.compare_all()

    @rule()
    def give_allowances(self) -> None:
        self.run(self.world.accounts.give_allowances())
        self.model.allow_all(self.now)
        self.compare_all()

    def compare_all(self) -> None:
        for user in self.model.accounts:
            self.compare(user)

    def compare(self, user: str) -> None:
        model = self.model.accounts.get(user)
        if model is None:
            return
        account = self.run(self.world.accounts.get(user))
        assert account["credits_remaining"] == len(model.credits)
        storage = account["storage"]
        assert (storage["used_bytes"], storage["reserved_bytes"]) == self.model.storage(user)
        lots = {(credit.grant_id, credit.expires_at) for credit in model.credits if credit}
        expected = sorted((*lot, sum(c is not None and c.grant_id == lot[0] for c in model.credits)) for lot in lots)
        found = [(lot["grant_id"], lot["expires_at"], lot["credits"]) for lot in account["expiring"]]
        assert sorted(found) == expected

    def teardown(self) -> None:
        for user, model in self.model.accounts.items():
            moves = self.run(self.world.moves(user))
            # Of several lots that expire at once, any may come first; a charge of nothing moves nothing.
            assert sorted(moves) == sorted(move for move in model.moves if move[1])
            assert sum(amount for _, amount in moves) == len(model.credits)
            self.compare_usage(user)
        assert self.run(self.world.off()) == {}

    def compare_usage(self, user: str) -> None:
        scope = self.world.reports.scope(user, START.date(), self.now.date(), "")
        totals = self.run(self.world.reports.usage(scope))["totals"]
        counted = [totals["jobs"], totals["credits_captured"], totals["credits_refunded"]]
        assert counted == self.model.usage.get(user, [0, 0, 0])


@pytest.mark.timeout(600)
def test_the_ledger_does_what_its_model_does(database_url: str) -> None:
    with asyncio.Runner() as runner:
        opened = ledger_world(database_url)
        world = runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(
                lambda: LedgerMachine(world, runner),  # type: ignore[arg-type]
                settings=settings(
                    max_examples=50,
                    stateful_step_count=40,
                    deadline=None,
                    derandomize=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(opened.__aexit__(None, None, None))
