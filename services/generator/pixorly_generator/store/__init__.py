"""All of the generator's SQL. Functions take a connection; whoever calls them opens the transaction."""

from pixorly_generator.store.books import Place, costs, list_attempts, pause, paused, resume
from pixorly_generator.store.calls import (
    Call,
    Ending,
    Fate,
    Key,
    Wanted,
    add_calls,
    close_jobs,
    contest_leases,
    finish,
    lease_again,
    lease_new,
    lock_calls,
    renew_leases,
    reopen,
    turn_attempt,
)

__all__ = [
    "Call",
    "Ending",
    "Fate",
    "Key",
    "Place",
    "Wanted",
    "add_calls",
    "close_jobs",
    "contest_leases",
    "costs",
    "finish",
    "lease_again",
    "lease_new",
    "list_attempts",
    "lock_calls",
    "pause",
    "paused",
    "renew_leases",
    "reopen",
    "resume",
    "turn_attempt",
]
