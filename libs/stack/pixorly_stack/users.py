"""`pixorly users` and `plans`: what an operator does with accounts."""

import time
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from pixorly_client.calls import Call
from pixorly_stack.books import ADMIN, User, as_operator, get, part, send
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json
from pixorly_stack.console import out
from pixorly_stack.showing import credits_in_words, show_json, show_table, size_in_words, table

app = typer.Typer(help="List, open and change users' accounts and their keys.", no_args_is_help=True)
keys = typer.Typer(help="Make, list and revoke a user's keys.", no_args_is_help=True)
plans = typer.Typer(help="What each plan gives.", no_args_is_help=True)
app.add_typer(keys, name="keys")

_LOOK_EVERY_S: Final = 1.0

Plan = Annotated[str, typer.Argument(help="One of `pixorly plans list`.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where an earlier list ended.")] = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """List accounts, by user id."""
    with as_operator(context, dir_, as_json=as_json) as client:
        page = client.ask(get(f"{ADMIN}/users", {"limit": limit, "cursor": cursor}))
    if as_json:
        show_json(page)
        return
    made = table("USER", "PLAN", "STATUS", "CREDITS", "STORED", "QUOTA", right=("CREDITS", "STORED", "QUOTA"))
    for row in page["data"]:
        storage = row["storage"]
        made.add_row(
            escape(row["user_id"]),
            escape(row["plan"]),
            _status(row["status"]),
            f"{row['credits_remaining']:,}",
            size_in_words(storage["used_bytes"] + storage["reserved_bytes"]),
            size_in_words(storage["quota_bytes"]),
        )
    show_table(made)
    if page["next_cursor"]:
        out.print(f"[dim]More: --cursor {escape(page['next_cursor'])}[/]")


def _status(status: str) -> str:
    return escape(status) if status == "active" else f"[red]{escape(status)}[/]"


@app.command()
def show(context: typer.Context, user: User, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Show an account."""
    with as_operator(context, dir_, as_json=as_json) as client:
        found = client.ask(get(f"{ADMIN}/users/{part(user)}"))
    _show(found, as_json=as_json)


def _show(account: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(account)
        return
    storage = account["storage"]
    out.print(f"[bold]{escape(account['user_id'])}[/]  plan {escape(account['plan'])}  {_status(account['status'])}")
    out.print(f"  {credits_in_words(account['credits_remaining'])}")
    for lot in account.get("expiring", []):
        out.print(f"    of these {credits_in_words(lot['credits'])} until {escape(lot['expires_at'])}")
    out.print(
        f"  {size_in_words(storage['used_bytes'])} of {size_in_words(storage['quota_bytes'])} stored, "
        f"{size_in_words(storage['reserved_bytes'])} reserved"
    )
    if not account.get("allowance", True):
        out.print("  no monthly allowance")


def _put(context: typer.Context, user: str, terms: dict[str, Any], dir_: Dir, *, as_json: bool) -> None:
    with as_operator(context, dir_, as_json=as_json) as client:
        _show(client.ask(send("PUT", f"{ADMIN}/users/{part(user)}", terms)), as_json=as_json)


@app.command("open")
def open_(
    context: typer.Context,
    user: User,
    *,
    plan: Annotated[str | None, typer.Option("--plan", "-p", help="The plan; the server's default without it.")] = None,
    allowance: Annotated[bool, typer.Option(help="Whether the plan's monthly credits are given.")] = True,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Open an account; one that is open stays as it is but for what is said here."""
    terms = {"allowance": allowance, **({"plan": plan} if plan else {})}
    _put(context, user, terms, dir_, as_json=as_json)


@app.command()
def plan(context: typer.Context, user: User, plan: Plan, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Put a user on another plan: an upgrade gives the difference at once, a downgrade counts from the next month."""
    _put(context, user, {"plan": plan}, dir_, as_json=as_json)


@app.command()
def suspend(context: typer.Context, user: User, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Take no more jobs from a user; those under way end as they would."""
    _put(context, user, {"status": "suspended"}, dir_, as_json=as_json)


@app.command()
def unsuspend(context: typer.Context, user: User, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Take jobs from a user again."""
    _put(context, user, {"status": "active"}, dir_, as_json=as_json)


@app.command()
def erase(
    context: typer.Context,
    user: User,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Return when nothing is left.")] = True,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Delete a user's images, blank prompts and notes, revoke keys; transfers stay. There is no way back."""
    if not yes:
        typer.confirm(f"Erase {user}: all images, prompts and keys, for good?", abort=True)
    path = f"{ADMIN}/users/{part(user)}/erasure"
    with as_operator(context, dir_, as_json=as_json) as client:
        found = client.ask(send("POST", path, {}))
        while wait and not found["finished_at"]:
            time.sleep(_LOOK_EVERY_S)
            found = client.ask(get(path))
    if as_json:
        show_json(found)
        return
    how_far = "Erased." if found["finished_at"] else "It is under way."
    out.print(f"{how_far} {found['images']:,} images deleted, {found['jobs']:,} jobs blanked.")


# Limits


@app.command()
def limits(
    context: typer.Context,
    user: User,
    *,
    jobs_at_once: Annotated[int | None, typer.Option(min=0, help="Jobs under way at a time; 0 is any number.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Requests of each key in a minute; 0 is any number.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Take back what was said for this user.")] = False,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Show what a user may do, or let them do more or less than their plan says."""
    asked = {"jobs_at_once": jobs_at_once, "requests_per_minute": requests_per_minute}
    said = {name: number for name, number in asked.items() if number is not None}
    if reset and said:
        raise typer.BadParameter("--reset takes back what was said, so it goes alone")
    path = f"{ADMIN}/users/{part(user)}/limits"
    with as_operator(context, dir_, as_json=as_json) as client:
        if reset:
            client.ask(Call("DELETE", path, bytes.decode))
        found = client.ask(send("PUT", path, said) if said else get(path))
    if as_json:
        show_json(found)
        return
    out.print(f"[bold]{escape(found['user_id'])}[/]  plan {escape(found['plan'])}")
    out.print(f"  jobs at once: {_limit(found, 'jobs_at_once')}, {found['jobs_under_way']:,} under way")
    out.print(f"  requests a minute, each key: {_limit(found, 'requests_per_minute')}")


def _limit(found: dict[str, Any], name: str) -> str:
    words = f"{found[name]:,}" if found[name] else "any number"
    return words if found["overrides"][name] is None else f"{words} [dim](said for this user)[/]"


# Keys


@keys.command("make")
def make_key(
    context: typer.Context,
    user: User,
    *,
    name: Annotated[str, typer.Option("--name", "-n", help="What it is for.")] = "default",
    scopes: Annotated[list[str] | None, typer.Option("--scope", "-s", help="What it opens; once for each.")] = None,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Make a key and show it, this one time."""
    body = {"name": name, "scopes": scopes or ["generate", "read"]}
    with as_operator(context, dir_, as_json=as_json) as client:
        # A repeat would make another.
        made = client.ask(send("POST", f"{ADMIN}/users/{part(user)}/keys", body, repeatable=False))
    if as_json:
        show_json(made)
    else:
        out.print(escape(made["key"]))


@keys.command("list")
def list_keys(context: typer.Context, user: User, *, as_json: Json = False, dir_: Dir = None) -> None:
    """List a user's keys, newest first, without their secrets."""
    with as_operator(context, dir_, as_json=as_json) as client:
        found = client.ask(get(f"{ADMIN}/users/{part(user)}/keys"))
    if as_json:
        show_json(found)
        return
    made = table("ID", "NAME", "KEY", "SCOPES", "CREATED", "REVOKED")
    for key in found["data"]:
        words = (key["id"], key["name"], f"{key['prefix']}…", ",".join(key["scopes"]), key["created_at"])
        made.add_row(*map(escape, words), escape(key["revoked_at"] or "-"))
    show_table(made)


@keys.command("revoke")
def revoke_key(
    context: typer.Context,
    user: User,
    key: Annotated[str, typer.Argument(help="The key's id.")],
    *,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Revoke a key for good."""
    with as_operator(context, dir_, as_json=as_json) as client:
        client.ask(Call("DELETE", f"{ADMIN}/users/{part(user)}/keys/{part(key)}", bytes.decode))
    if as_json:
        show_json({"id": key, "revoked": True})
    else:
        out.print("Revoked.")


# Plans


@plans.command("list")
def list_plans(context: typer.Context, *, as_json: Json = False, dir_: Dir = None) -> None:
    """List the plans, with their storage and their monthly credits."""
    with as_operator(context, dir_, as_json=as_json) as client:
        found = client.ask(get(f"{ADMIN}/plans"))
    if as_json:
        show_json(found)
        return
    made = table("PLAN", "STORAGE", "CREDITS A MONTH", right=("STORAGE", "CREDITS A MONTH"))
    for row in found["data"]:
        made.add_row(escape(row["plan"]), size_in_words(row["quota_bytes"]), f"{row['allowance_credits']:,}")
    show_table(made)
