"""`pixorly credits`: give credits to a user, and see where they went."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.markup import escape
from rich.table import Table

from pixorly_client import Pixorly
from pixorly_stack.books import (
    ADMIN,
    Csv,
    First,
    Last,
    Params,
    User,
    as_operator,
    day_of,
    get,
    get_csv,
    part,
    send,
    show_csv,
)
from pixorly_stack.commands import Dir
from pixorly_stack.connection import Json, talking
from pixorly_stack.console import out
from pixorly_stack.showing import credits_in_words, one_line, show_json, show_table, table

app = typer.Typer(help="Give credits, show what there is and where it went.", no_args_is_help=True)


@app.command()
def grant(
    context: typer.Context,
    user: User,
    amount: Annotated[int, typer.Argument(min=1, help="How many credits.")],
    *,
    reason: Annotated[str | None, typer.Option("--reason", "-r", help="What stands on the statement.")] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="When what is left of it ends (UTC); never."
        ),
    ] = None,
    grant_id: Annotated[
        str | None, typer.Option("--id", help="The grant's id: the same one gives nothing a second time.")
    ] = None,
    purchase: Annotated[bool, typer.Option("--purchase", help="They were bought, not given.")] = False,
    as_json: Json = False,
    dir_: Dir = None,
) -> None:
    """Give a user credits."""
    body = {
        "grant_id": grant_id or str(uuid4()),
        "amount_credits": amount,
        "kind": "purchase" if purchase else "grant",
        **({"reason": reason} if reason else {}),
        **({"expires_at": expires.replace(tzinfo=UTC).isoformat()} if expires else {}),
    }
    with as_operator(context, dir_, as_json=as_json) as client:
        # The id makes a repeat harmless.
        given = client.ask(send("POST", f"{ADMIN}/users/{part(user)}/grants", body))
    if as_json:
        show_json(given)
    else:
        ends = f", until {escape(given['expires_at'])}" if given["expires_at"] else ""
        out.print(f"{credits_in_words(given['amount_credits'])} for {escape(user)}{ends}; grant {given['grant_id']}.")
        out.print(f"The balance was {credits_in_words(given['balance_credits'])} then.")


@app.command()
def show(context: typer.Context, user: User, *, as_json: Json = False, dir_: Dir = None) -> None:
    """Show a user's credits: those that expire, in the order in which jobs take them, and those that do not."""
    with as_operator(context, dir_, as_json=as_json) as client:
        account = client.ask(get(f"{ADMIN}/users/{part(user)}"))
    lots = account.get("expiring", [])
    rest = account["credits_remaining"] - sum(lot["credits"] for lot in lots)
    if as_json:
        facts = {"user_id": account["user_id"], "credits_remaining": account["credits_remaining"]}
        show_json({**facts, "expiring": lots, "not_expiring_credits": rest})
        return
    made = table("CREDITS", "UNTIL", "GRANT", right=("CREDITS",))
    for lot in lots:
        made.add_row(f"{lot['credits']:,}", escape(lot["expires_at"]), escape(lot["grant_id"]))
    made.add_row(f"{rest:,}", "[dim]for ever[/]", "")
    show_table(made)


Many = Annotated[int, typer.Option("--limit", "-l", min=1, max=1000, help="How many; --csv gives all.")]
Page = Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="How many; --csv gives all.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Where an earlier list ended.")]


@app.command()
def transactions(
    context: typer.Context,
    user: User,
    *,
    first: First = None,
    last: Last = None,
    limit: Many = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    as_csv: Csv = False,
    dir_: Dir = None,
) -> None:
    """Show a user's statement, newest first: every change of the balance, with the balance after it."""
    asked = {**_span(first, last), "cursor": cursor, "limit": limit}
    with as_operator(context, dir_, as_json=as_json) as client:
        _show_statement(client, f"{ADMIN}/users/{part(user)}/transactions", asked, as_json=as_json, as_csv=as_csv)


def statement(
    context: typer.Context,
    *,
    first: First = None,
    last: Last = None,
    limit: Page = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    as_csv: Csv = False,
    dir_: Dir = None,
) -> None:
    """Show every change of your credits, newest first, with the balance after it."""
    asked = {**_span(first, last), "cursor": cursor, "limit": limit}
    with talking(context, dir_, as_json=as_json) as client:
        _show_statement(client, "/v1/transactions", asked, as_json=as_json, as_csv=as_csv)


def _span(first: datetime | None, last: datetime | None) -> dict[str, str | None]:
    """Return a span of days, both included, in moments."""
    until = last.replace(tzinfo=UTC) + timedelta(days=1) if last else None
    return {"from": f"{day_of(first)}T00:00:00Z" if first else None, "to": until.isoformat() if until else None}


def _show_statement(client: Pixorly, path: str, asked: Params, *, as_json: bool, as_csv: bool) -> None:
    if as_csv:
        show_csv(client.ask(get_csv(path, {**asked, "limit": None})))
        return
    page = client.ask(get(path, asked))
    if as_json:
        show_json(page)
        return
    show_table(_statement(page["data"]))
    if page["next_cursor"]:
        out.print(f"[dim]More: --cursor {escape(page['next_cursor'])}[/]")


def _statement(rows: list[dict[str, Any]]) -> Table:
    made = table(
        "WHEN", "KIND", "AMOUNT", "BALANCE", "JOB OR GRANT", "REASON", right=("AMOUNT", "BALANCE"), cut="REASON"
    )
    for row in rows:
        colour = "green" if row["amount_credits"] > 0 else "default"
        made.add_row(
            escape(row["created_at"][:19].replace("T", " ")),
            escape(row["kind"]),
            f"[{colour}]{row['amount_credits']:+,}[/]",
            f"{row['balance_credits']:,}",
            escape(row["job_id"] or row["grant_id"] or "-"),
            one_line(row["reason"] or ""),
        )
    return made
