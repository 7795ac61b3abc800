"""The operator's commands on a running system."""

import json

from stack import Stack


def ok(stack: Stack, *words: str) -> str:
    done = stack.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_an_account_is_opened_given_credits_and_found_in_the_books(stack: Stack) -> None:
    user_id, key = await stack.user(amount_credits=100)
    given = json.loads(ok(stack, "credits", "grant", user_id, "50", "--expires", "2199-01-01", "--json"))
    async with stack.client(key) as client:
        await client.settled((await client.create(n=2))["id"])

    assert given["balance_credits"] == 150
    shown = json.loads(ok(stack, "credits", "show", user_id, "--json"))
    assert (shown["credits_remaining"], shown["not_expiring_credits"]) == (140, 100)
    kinds = [line.split(",")[1] for line in ok(stack, "credits", "transactions", user_id, "--csv").splitlines()]
    assert kinds == ["kind", "charge", "grant", "grant"]
    usage = json.loads(ok(stack, "bill", "usage", "--by", "user", "--json"))
    assert {line["user_id"]: line["credits_used"] for line in usage["data"]}[user_id] == 10
    report = json.loads(ok(stack, "bill", "margins", "--json"))
    (sandbox,) = [line for line in report["data"] if line["model"] == "sandbox/aurora"]
    assert sandbox["provider_calls"] >= 1
    assert ok(stack, "audit", "--storage").splitlines()[-1] == "Everything adds up."
