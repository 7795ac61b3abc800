"""What must hold when the faults have ended and nothing is under way any more."""

from typing import TYPE_CHECKING
from uuid import UUID

from pixorly.outcomes import outcome_of
from pixorly_api import lifecycle
from pixorly_api.lifecycle import Job
from simulator.bus import short
from simulator.clients import Clients
from simulator.invariants import image_of
from simulator.violation import must

if TYPE_CHECKING:
    from simulator.world import World


def is_quiet(world: "World", clients: Clients) -> bool:
    """Tell whether nothing is left to be done."""
    return (
        world.calm
        and not clients.active
        and not world.bus.messages
        and not world.api.database.outbox
        and not world.generator.database.outbox
        and not any(calls.running for calls in world.calls.values())
        and all(_is_done(row.status, voided=row.voided) for row in world.api.jobs.values())
        and all(row.confirmed for row in world.api.deletions.values())
        and not world.ledger.open_charges()
    )


def _is_done(status: str, *, voided: bool) -> bool:
    return status in lifecycle.SETTLED or (status == "abandoned" and voided)


def left_to_do(world: "World", clients: Clients) -> str:
    """Say what keeps a world from being quiet."""
    left = {
        "clients": clients.active,
        "messages": [str(message) for message in world.bus.messages],
        "outbox of the api": [row.event.type for row in world.api.database.outbox.values()],
        "outbox of the generator": [row.event.type for row in world.generator.database.outbox.values()],
        "jobs": [
            f"{short(job_id)} {row.status}"
            for job_id, row in world.api.jobs.items()
            if not _is_done(row.status, voided=row.voided)
        ],
        "deletions": [short(image_id) for image_id, row in world.api.deletions.items() if not row.confirmed],
        "open charges": [short(charge.job_id) for charge in world.ledger.open_charges()],
    }
    return "; ".join(f"{name}: {what}" for name, what in left.items() if what)


def check_ending(world: "World", clients: Clients) -> None:
    """Look at a world in which nothing is under way.

    Raises:
        Violation: Something does not hold.
    """
    _money(world)
    _promises(world, clients)
    _objects(world)
    _dead_letters(world)


def _money(world: "World") -> None:
    ledger = world.ledger
    for job_id, row in world.api.jobs.items():
        charge, closing = ledger.charges.get(job_id), ledger.closings.get(job_id)
        if row.job is None:
            must(charge is None or charge.status == "voided", f"{short(job_id)} was given up and is charged")
            continue
        must(charge is not None and charge.status == "settled", f"the charge of {short(job_id)} is not settled")
        if charge is None or closing is None:
            continue
        refund = lifecycle.refunded_credits(row.job)
        must(closing.refunded_credits == refund, f"{short(job_id)}: {closing.refunded_credits} refunded, not {refund}")
        must(closing.captured_credits + refund == charge.amount_credits, f"{short(job_id)} does not add up")
        must(refund == _owed(row.job), f"{short(job_id)}: the outcomes say that {_owed(row.job)} go back")
    for job_id, charge in ledger.charges.items():
        must(charge.status == "voided" or job_id in world.api.jobs, f"{short(job_id)} is charged, and there is no job")


def _owed(job: Job) -> int:
    """Return what a job gives back by the table of outcomes: what was not delivered, unless through the user."""
    failed = [slot for slot in job.slots if slot.state == "failed"]
    return sum(job.credits_per_image for slot in failed if outcome_of(slot.code or "").fault == "server")


def _promises(world: "World", clients: Clients) -> None:
    for job_id in clients.promised:
        row = world.api.jobs.get(job_id)
        must(row is not None and row.status in lifecycle.SETTLED, f"the promised job {short(job_id)} is not settled")
    keys = [key for key in clients.promised.values() if key]
    must(len(keys) == len(set(keys)), "one idempotency key led to two jobs")


def _objects(world: "World") -> None:
    ledger, bucket = world.ledger, world.bucket
    recorded: dict[str, UUID] = {}
    for image_id, row in world.api.images.items():
        if not row.deleted:
            recorded.update(dict.fromkeys(row.event.keys.all(), image_id))
            content = bucket.objects.get(row.event.keys.original, b"")
            must(content.decode().rstrip(".") == row.event.sha256, f"image {short(image_id)} has other bytes")
    found = {key: of for key in bucket.objects if (of := image_of(key)) is not None}
    must(
        found == recorded,
        f"objects without a record: {found.keys() - recorded.keys()}; "
        f"records without an object: {recorded.keys() - found.keys()}",
    )
    for image_id, room in ledger.rooms.items():
        lives = image_id in world.api.images and not world.api.images[image_id].deleted
        must((room.state == "stored") == lives, f"image {short(image_id)} is {room.state} at the ledger")
        must(room.state != "reserved", f"room is still kept for {short(image_id)}")
        if lives:
            event = world.api.images[image_id].event
            must(room.bytes == event.bytes + event.thumbnail_bytes, f"image {short(image_id)} has another size")


def _dead_letters(world: "World") -> None:
    for message, reason in world.bus.dead:
        must(reason in {"Bug", "delivery limit"}, f"{message} was put aside: {reason}")


def note_what_came(world: "World", clients: Clients) -> None:
    """Note what can be told from a world that has come to its end."""
    for row in world.api.jobs.values():
        world.note(f"job {row.status}")
        for slot in row.job.slots if row.job else ():
            world.note(f"slot {slot.code or slot.state}")
    for deletion in world.api.deletions.values():
        world.note(f"deleted: {deletion.event.reason}")
    for job_id, charge in world.ledger.charges.items():
        if charge.status == "voided":
            world.note("a charge voided" if job_id in world.ledger.closings else "a tombstone")
    for message, reason in world.bus.dead:
        world.note(f"dead in {message.queue}: {reason}")
    for code in clients.refused:
        world.note(f"refused: {code}")
