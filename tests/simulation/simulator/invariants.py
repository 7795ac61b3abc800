"""What must hold after every single action, whatever has just died."""

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pixorly.events import Event, ImageDeleted, ImageFailed, ImageGenerated, ImageUploaded, JobCreated, JobSettled
from pixorly_api.lifecycle import Job, Slot
from simulator.bus import Message, short
from simulator.generator import CallRow
from simulator.provider import Key
from simulator.violation import must
from simulator.weather import SKEW_S

if TYPE_CHECKING:
    from simulator.world import World

_SLOT_RANKS: Final = {"pending": 0, "generated": 1, "uploaded": 2, "failed": 2}
_JOB_RANKS: Final = {"pending": 0, "processing": 1, "uploading": 2, "completed": 3, "failed": 3, "canceled": 3}
_ROOM_RANKS: Final = {"reserved": 0, "stored": 1, "released": 2}


class Invariants:
    """Looks at a world after each action in which something changed."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._jobs: dict[UUID, Job] = {}
        self._calls: dict[Key, CallRow] = {}
        self._rooms: dict[UUID, str] = {}
        self._settlements: dict[UUID, JobSettled] = {}
        self._versions: dict[str, int] = {}
        world.published = self._note_published

    def check(self) -> None:
        """Look at everything that may have changed.

        Raises:
            Violation: Something does not hold.
        """
        if not self._world.dirty:
            return
        self._world.dirty = False
        self._if_changed("api", self._states_only_move_forward)
        self._if_changed("ledger", self._books_balance)
        self._if_changed("generator", self._results_stay)
        self._each_charge_has_a_job()
        self._nothing_is_bought_twice()
        self._somebody_is_at_each_open_slot()
        self._every_object_is_explained()

    def _if_changed(self, name: str, check: Callable[[], None]) -> None:
        database = getattr(self._world, name).database
        if self._versions.get(name) != database.version:
            self._versions[name] = database.version
            check()

    # One terminal event for each job, ever

    def _note_published(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message.event, JobSettled):
                first = self._settlements.setdefault(message.event.job_id, message.event)
                must(first == message.event, f"job {short(first.job_id)} has two different terminal events")

    # The api

    def _states_only_move_forward(self) -> None:
        tables = self._world.api
        now = {job_id: row.job for job_id, row in tables.jobs.items() if row.job}
        for job_id, before in self._jobs.items():
            must(job_id in now, f"the promised job {short(job_id)} is gone")
            if now[job_id] is not before:
                _moved_forward(before, now[job_id])
        for job_id, row in tables.jobs.items():
            charge = self._world.ledger.charges.get(job_id)
            must(not row.voided or (charge and charge.status == "voided"), f"{short(job_id)} was voided and is charged")
            must(row.job is None or (charge and charge.status != "voided"), f"{short(job_id)} is promised, not charged")
        for job_id, job in now.items():
            for slot in job.slots:
                recorded = slot.image_id in tables.images
                must(recorded == (slot.state == "uploaded"), f"slot {short(job_id)}/{slot.index} and images disagree")
        self._jobs = now

    # The ledger

    def _books_balance(self) -> None:
        ledger = self._world.ledger
        sums = dict.fromkeys(("issued", "available", "escrow", "revenue"), 0)
        of_user = dict.fromkeys(ledger.accounts, 0)
        moved: set[tuple[UUID | None, str]] = set()
        for transfer in ledger.transfers.values():
            must(transfer.amount_credits > 0, "a transfer moves nothing")
            sums[transfer.from_account] -= transfer.amount_credits
            sums[transfer.to_account] += transfer.amount_credits
            of_user[transfer.user_id] += (transfer.to_account == "available") * transfer.amount_credits
            of_user[transfer.user_id] -= (transfer.from_account == "available") * transfer.amount_credits
            if transfer.job_id:
                must((transfer.job_id, transfer.kind) not in moved, f"{short(transfer.job_id)}: two {transfer.kind}s")
                moved.add((transfer.job_id, transfer.kind))
        must(sum(sums.values()) == 0, "the sum over all accounts is not zero")
        escrow = sum(charge.amount_credits for charge in ledger.open_charges())
        must(sums["escrow"] == escrow, f"escrow is {sums['escrow']}, the open charges are {escrow}")
        for account in ledger.accounts.values():
            must(account.balance_credits >= 0, f"{account.user_id} is below zero")
            must(
                account.balance_credits == of_user[account.user_id], f"the balance of {account.user_id} is not its sum"
            )
        self._storage_adds_up()

    def _each_charge_has_a_job(self) -> None:
        world = self._world
        for charge in world.ledger.open_charges():
            must(charge.job_id in world.api.jobs, f"{short(charge.job_id)} is charged, and its job is forgotten")

    def _storage_adds_up(self) -> None:
        ledger = self._world.ledger
        for account in ledger.accounts.values():
            mine = [room for room in ledger.rooms.values() if room.user_id == account.user_id]
            used = sum(room.bytes for room in mine if room.state == "stored")
            reserved = sum(room.bytes for room in mine if room.state == "reserved")
            must((account.used_bytes, account.reserved_bytes) == (used, reserved), "storage is not the sum of images")
        for image_id, room in ledger.rooms.items():
            before = self._rooms.get(image_id, "reserved")
            must(_ROOM_RANKS[room.state] >= _ROOM_RANKS[before], f"the room of {short(image_id)} goes back")
            self._rooms[image_id] = room.state

    # The generator

    def _results_stay(self) -> None:
        calls = self._world.generator.calls
        for key, before in self._calls.items():
            must(
                before.state == "open" or calls[key] == before, f"the result of {short(key[0])}, call {key[1]} changes"
            )
        self._calls = dict(calls)

    def _nothing_is_bought_twice(self) -> None:
        provider = self._world.provider
        for key, paid in provider.paid.items():
            allowed = 1 + provider.lost[key]
            must(paid <= allowed, f"{short(key[0])}, call {key[1]} is paid {paid} times; {allowed} is the most allowed")

    # What is under way

    def _somebody_is_at_each_open_slot(self) -> None:
        """An open slot always has a message, an outbox row or a task: the reconciler is only a net below."""
        world = self._world
        if world.bus.purged:
            return
        dead = {message.event.job_id for message, _ in world.bus.dead}
        for job_id, row in world.api.jobs.items():
            if row.job is None or row.job.settled or job_id in dead or self._is_over(row.job):
                continue
            way = _under_way(world, job_id)
            for slot in row.job.slots:
                must(
                    slot.terminal or _is_served(world, row.job, slot, way), f"nobody is at {short(job_id)}/{slot.index}"
                )

    def _is_over(self, job: Job) -> bool:
        """Tell whether a job's deadline has passed by any process's clock; then the sweeper alone is at it."""
        return job.deadline <= self._world.now() + timedelta(seconds=SKEW_S)

    # The bucket

    def _every_object_is_explained(self) -> None:
        world = self._world
        for key in world.bucket.objects:
            image_id = image_of(key)
            if image_id is None or image_id in world.api.images:
                continue
            room = world.ledger.rooms.get(image_id)
            deletion = world.api.deletions.get(image_id)
            explained = (
                (room is not None and room.state == "stored")
                or (deletion is not None and not deletion.confirmed)
                or self._is_awaited(job_of(key), image_id)
                or any(_is_about(event, image_id) for event in _events(world, job_of(key)))
            )
            must(explained, f"nothing explains {key}")

    def _is_awaited(self, job_id: UUID, image_id: UUID) -> bool:
        """Tell whether the api still waits for an image; it says again what got lost, or has the image deleted."""
        row = self._world.api.jobs.get(job_id)
        return bool(row and row.job and any(s.image_id == image_id and not s.terminal for s in row.job.slots))


def _moved_forward(before: Job, now: Job) -> None:
    name = short(before.job_id)
    must(_JOB_RANKS[now.status] >= _JOB_RANKS[before.status], f"job {name} goes from {before.status} to {now.status}")
    must(now.deadline == before.deadline, f"job {name} is promised twice")
    must(not before.settled or before.status == now.status, f"job {name} ends twice")
    must(before.settled or not now.settled or all(slot.terminal for slot in now.slots), f"job {name} ends too early")
    for old, new in zip(before.slots, now.slots, strict=True):
        forward = _SLOT_RANKS[new.state] >= _SLOT_RANKS[old.state]
        same = not old.terminal or (old.state, old.code) == (new.state, new.code)
        must(forward and same, f"slot {name}/{old.index} goes from {old.state} to {new.state}")


def image_of(key: str) -> UUID | None:
    """Return the image that an object is of; None for what is only staged."""
    parts = key.split("/")
    return UUID(parts[3][2:38]) if parts[0] == "users" else None


def job_of(key: str) -> UUID:
    """Return the job that an object is of."""
    parts = key.split("/")
    return UUID(parts[2] if parts[0] == "users" else parts[1])


def _events(world: "World", job_id: UUID) -> list[Event]:
    """Return the events of a job that are in a queue, in hand or in an outbox."""
    found = [message.event for message in world.bus.messages if message.event.job_id == job_id]
    for database in (world.api.database, world.generator.database):
        found += [row.event for row in database.outbox.values() if row.event.job_id == job_id]
    return found


def _is_about(event: Event, image_id: UUID) -> bool:
    return isinstance(event, ImageGenerated | ImageUploaded | ImageDeleted) and event.image_id == image_id


_Way = dict[str, list[Event]]


def _under_way(world: "World", job_id: UUID) -> _Way:
    """Return the events of a job by the queue that they are in, and those in outboxes under the service's name."""
    way: _Way = {"api": [], "generator": []}
    for message in world.bus.messages:
        if message.event.job_id == job_id:
            way.setdefault(message.queue, []).append(message.event)
    for name, database in (("api", world.api.database), ("generator", world.generator.database)):
        way[name] += [row.event for row in database.outbox.values() if row.event.job_id == job_id]
    return way


def _is_served(world: "World", job: Job, slot: Slot, way: _Way) -> bool:
    told = [*way.get("api.follow_job", ()), *way["generator"]]
    if any(isinstance(event, ImageUploaded | ImageFailed) and event.image_id == slot.image_id for event in told):
        return True
    made = [*way.get("uploader.store_image", ()), *way.get("api.settle_dead", ()), *way["generator"], *way["api"]]
    if any(isinstance(event, ImageGenerated) and event.image_id == slot.image_id for event in made):
        return True
    if slot.state == "generated":
        return False
    asked = [*way.get("generator.generate_image", ()), *way.get("api.settle_dead", ()), *way["api"]]
    return any(isinstance(event, JobCreated) for event in asked) or _is_called(world, job, slot)


def _is_called(world: "World", job: Job, slot: Slot) -> bool:
    """Tell whether a task is at the call that serves a slot; it goes on when the message's connection is lost."""
    numbers = {call.call_no for call in job.calls if slot.index in call.indexes}
    return any(job_id == job.job_id and no in numbers for calls in world.calls.values() for job_id, no in calls.running)
