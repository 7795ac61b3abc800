"""`pixorly users`, `credits`, `plans`, `audit` and `bill`: what they ask of the API, and what they show."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fake_api import FakeApi, ok, problem
from typer.testing import CliRunner, Result

from pixorly_stack.bill import compared
from pixorly_stack.bill_file import Line, read_bill
from pixorly_stack.cli import app
from pixorly_stack.errors import StackError

ADA = {
    "user_id": "ada",
    "plan": "pro",
    "status": "suspended",
    "credits_remaining": 1_150,
    "storage": {"used_bytes": 2_000_000, "reserved_bytes": 0, "quota_bytes": 100_000_000_000},
    "allowance": True,
    "expiring": [{"grant_id": "gift", "credits": 150, "expires_at": "2026-12-01T00:00:00Z"}],
}
LINE = {
    "id": "t-1",
    "kind": "refund",
    "amount_credits": 5,
    "balance_credits": 1_150,
    "job_id": "job-1",
    "grant_id": None,
    "reason": "no_image",
    "created_at": "2026-11-22T19:43:55.452511Z",
}
TOTALS = {
    "transfers": 1_234_567,
    "charges": 2,
    "accounts": 1,
    "issued_credits": -9,
    "available_credits": 9,
    "escrow_credits": 0,
    "revenue_credits": 0,
}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def run(api: FakeApi, *words: str) -> Result:
    result = CliRunner().invoke(app, list(words), obj=lambda _folder: api.client(tries=2))
    assert not api.answers, "the command did not ask for everything"
    return result


def body(api: FakeApi, number: int = 0) -> Any:
    return json.loads(api.requests[number].content)


# Accounts


def test_users_are_listed_with_what_they_have(api: FakeApi) -> None:
    api.will(ok({"data": [ADA], "next_cursor": "ada"}))

    result = run(api, "users", "list", "--limit", "1")

    assert result.exit_code == 0, result.output
    assert api.asked == ["GET /admin/v1/users?limit=1"]
    assert all(word in result.output for word in ("ada", "pro", "suspended", "1,150", "2.0 MB", "--cursor ada"))


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        (("open", "ada", "--plan", "pro", "--no-allowance"), {"plan": "pro", "allowance": False}),
        (("open", "ada"), {"allowance": True}),
        (("plan", "ada", "free"), {"plan": "free"}),
        (("suspend", "ada"), {"status": "suspended"}),
        (("unsuspend", "ada"), {"status": "active"}),
    ],
)
def test_an_account_is_changed_in_what_was_said_and_shown(
    api: FakeApi, words: tuple[str, ...], terms: dict[str, Any]
) -> None:
    api.will(ok(ADA))

    assert "1,150 credits" in run(api, "users", *words).output
    assert api.asked[0] == "PUT /admin/v1/users/ada"
    assert body(api) == terms


LIMITS: Final = {
    "user_id": "ada",
    "plan": "pro",
    "jobs_at_once": 1200,
    "jobs_under_way": 3,
    "requests_per_minute": 0,
    "overrides": {"jobs_at_once": 1200, "requests_per_minute": None},
}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), ["GET /admin/v1/users/ada/limits"]),
        (("--jobs-at-once", "1200"), ["PUT /admin/v1/users/ada/limits"]),
        (("--reset",), ["DELETE /admin/v1/users/ada/limits", "GET /admin/v1/users/ada/limits"]),
    ],
)
def test_what_a_user_may_do_is_shown_said_and_taken_back(
    api: FakeApi, words: tuple[str, ...], asked: list[str]
) -> None:
    api.will(*([httpx.Response(204)] if words == ("--reset",) else []), ok(LIMITS))

    result = run(api, "users", "limits", "ada", *words)

    assert api.asked == asked
    assert "jobs at once: 1,200 (said for this user), 3 under way" in result.output
    assert "requests a minute, each key: any number\n" in result.output


def test_of_a_users_limits_only_those_are_said_that_are_named_and_nought_is_one(api: FakeApi) -> None:
    api.will(ok(LIMITS))

    result = run(api, "users", "limits", "ada", "--requests-per-minute", "0", "--json")

    assert body(api) == {"requests_per_minute": 0}
    assert json.loads(result.output) == LIMITS


@pytest.mark.parametrize("words", [("--reset", "--jobs-at-once", "1"), ("--jobs-at-once", "-1")])
def test_limits_that_make_no_sense_are_refused_before_anything_is_asked(api: FakeApi, words: tuple[str, ...]) -> None:
    result = run(api, "users", "limits", "ada", *words)

    assert result.exit_code == 2
    assert api.asked == []


def test_a_key_is_made_once_listed_without_its_secret_and_revoked(api: FakeApi) -> None:
    key = {
        "id": "k-1",
        "name": "ci",
        "prefix": "px_live_ab",
        "scopes": ["read"],
        "created_at": "2026-01-01T00:00:00Z",
        "revoked_at": None,
    }
    api.will(ok({**key, "key": "px_live_secret"}, 201))
    made = run(api, "users", "keys", "make", "ada", "--name", "ci", "--scope", "read")
    api.will(ok({"data": [key], "next_cursor": None}))
    listed = run(api, "users", "keys", "list", "ada")
    api.will(httpx.Response(204))
    revoked = run(api, "users", "keys", "revoke", "ada", "k-1", "--json")

    assert made.output == "px_live_secret\n"
    assert body(api) == {"name": "ci", "scopes": ["read"]}
    assert "px_live_ab…" in listed.output
    assert json.loads(revoked.output) == {"id": "k-1", "revoked": True}


def test_plans_are_shown_with_their_storage_and_their_credits(api: FakeApi) -> None:
    plan = {"plan": "pro", "quota_bytes": 100_000_000_000, "allowance_credits": 2000}
    api.will(ok({"data": [plan], "next_cursor": None}))

    shown = run(api, "plans", "list").output

    assert all(word in shown for word in ("pro", "100 GB", "2,000"))


# Credits


def test_a_grant_has_an_id_so_that_a_repeat_gives_nothing_more(api: FakeApi) -> None:
    given = {"grant_id": "g", "amount_credits": 50, "balance_credits": 60, "expires_at": "2026-12-01T00:00:00Z"}
    api.will(problem(503, "service_unavailable"), ok(given))

    result = run(api, "credits", "grant", "ada", "50", "--expires", "2026-12-01", "--purchase", "--reason", "invoice 7")

    assert result.exit_code == 0, result.output
    first, second = body(api, 0), body(api, 1)
    assert first == second
    assert first["grant_id"]
    assert {**first, "grant_id": ""} == {
        "grant_id": "",
        "amount_credits": 50,
        "kind": "purchase",
        "reason": "invoice 7",
        "expires_at": "2026-12-01T00:00:00+00:00",
    }
    assert "50 credits for ada" in result.output


def test_credits_are_shown_by_when_they_end(api: FakeApi) -> None:
    api.will(ok(ADA))
    shown = run(api, "credits", "show", "ada").output
    api.will(ok(ADA))
    facts = json.loads(run(api, "credits", "show", "ada", "--json").output)

    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["150", "1,000"]
    assert (facts["not_expiring_credits"], facts["expiring"]) == (1000, ADA["expiring"])


def test_a_statement_comes_in_pages_or_whole_as_csv(api: FakeApi) -> None:
    api.will(ok({"data": [LINE], "next_cursor": "7"}))
    page = run(api, "credits", "transactions", "ada", "--limit", "1", "--from", "2026-11-01")
    api.will(httpx.Response(200, text="id,kind\r\nt-1,refund\r\n"))
    sheet = run(api, "credits", "transactions", "ada", "--csv")

    assert "from=2026-11-01T00" in api.asked[0]
    assert all(word in page.output for word in ("+5", "1,150", "no_image", "--cursor 7"))
    assert api.asked[1] == "GET /admin/v1/users/ada/transactions?format=csv"
    assert sheet.output.splitlines() == ["id,kind", "t-1,refund"]


def test_a_users_own_statement_is_asked_for_with_the_users_own_key(api: FakeApi) -> None:
    api.will(ok({"data": [LINE], "next_cursor": None}))

    result = run(api, "statement", "--to", "2026-01-31")

    assert api.asked == ["GET /v1/transactions?to=2026-02-01T00%3A00%3A00%2B00%3A00&limit=50"]
    assert "no_image" in result.output


# Audits


def answer_in_lines(*lines: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, content=b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def check(name: str, *found: str, quiet: bool = False) -> dict[str, Any]:
    return {"name": name, "ok": not found, "found": list(found), "more": False, "quiet": quiet}


def test_a_clean_audit_shows_each_check_and_exits_with_0(api: FakeApi) -> None:
    checks = [check("balances"), check("open_charges", "job-1", quiet=True)]
    api.will(answer_in_lines(*checks, {"clean": True, "checks": checks, "totals": TOTALS}))

    result = run(api, "audit")

    assert result.exit_code == 0, result.output
    assert api.asked == ["GET /admin/v1/audit?quiet=false&stream=true"]
    assert all(word in result.output for word in ("balances", "busy", "1,234,567 transfers", "Everything adds up"))


def test_an_audit_that_finds_something_names_it_and_exits_with_1(api: FakeApi) -> None:
    checks = [check("balances", "ada", "bob")]
    api.will(answer_in_lines(*checks, {"clean": False, "checks": checks, "totals": TOTALS}))

    result = run(api, "audit", "--quiet")

    assert result.exit_code == 1
    assert "ada bob" in result.output


def test_the_audit_of_storage_names_what_is_off_both_ways(api: FakeApi) -> None:
    clean = {"clean": True, "checks": [], "totals": TOTALS}
    finding = {"kind": "object_without_image", "user_id": "ada", "id": "i-1"}
    sizes = {"object_bytes": 7, "image_bytes": None, "ledger_bytes": None}
    counts = {"users": 1, "objects": 1, "object_bytes": 7, "images": 0, "under_way": 0}
    last = {**counts, "found": {"object_without_image": 1}, "clean": False}
    api.will(answer_in_lines(clean), answer_in_lines(counts, {"finding": finding | sizes}, last))

    result = run(api, "audit", "--storage", "--json")

    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["clean"], found["storage"]["findings"]) == (False, [finding | sizes])


def test_an_audit_that_breaks_off_is_not_taken_for_clean(api: FakeApi) -> None:
    api.will(answer_in_lines(check("balances")))

    assert run(api, "audit").exit_code == 1


# Bills


def call(job_id: str, cost: str | None, generation_id: str | None, ended_at: str | None = "then") -> dict[str, Any]:
    return {
        "job_id": job_id,
        "call_no": 0,
        "attempt": 1,
        "provider": "openrouter",
        "cost_usd": cost,
        "generation_id": generation_id,
        "ended_at": ended_at,
    }


def test_a_bill_that_says_the_same_differs_in_nothing() -> None:
    billed = [Line("gen-1", "job-1", Decimal("0.039")), Line("gen-2", "job-2", Decimal("0.0"))]

    report = compared(billed, [call("job-1", "0.0390", "gen-1"), call("job-2", None, "gen-2")])

    assert (report["same"], report["differences"]) == (True, [])


def test_what_differs_is_named_both_ways() -> None:
    billed = [Line("gen-1", "job-1", Decimal("0.5")), Line("gen-x", "job-9", Decimal("0.04"))]
    calls = [call("job-1", "0.039", "gen-1"), call("job-2", "0.1", "gen-2"), call("job-9", None, None, None)]

    report = compared(billed, calls)

    assert {row["id"]: (row["kind"], row["billed_usd"], row["recorded_usd"]) for row in report["differences"]} == {
        "gen-1": ("amount", "0.5", "0.039"),
        "gen-2": ("not_billed", None, "0.1"),
        "gen-x": ("not_recorded", "0.04", None),
    }
    assert [row["why"] for row in report["differences"] if row["id"] == "gen-x"] == [
        "a process died during a call of this job"
    ]


def test_a_bill_by_session_is_compared_job_by_job() -> None:
    billed = [Line("", "job-1", Decimal("0.04")), Line("", "job-1", Decimal("0.04"))]
    calls = [call("job-1", "0.04", "gen-1"), call("job-1", "0.04", "gen-2")]

    assert compared(billed, calls)["same"]
    assert not compared(billed, calls[:1])["same"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bill.csv", "\ufeffGeneration_ID,Cost\ngen-1,$0.1\n"),
        ("bill.json", '[{"id": "gen-1", "usd": 0.1}]'),
        ("calls.json", '{"data": [{"id": "gen-1", "total_cost": "0.10", "parameters": {"n": 1}}]}'),
    ],
)
def test_a_bill_is_read_from_csv_and_json(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")

    assert [(line.generation_id, line.amount_usd) for line in read_bill(file)] == [("gen-1", Decimal("0.1"))]


@pytest.mark.parametrize("text", ["[", "id,amount\ngen-1,\n", "who,amount\nx,1\n", "[3]"])
def test_what_is_no_bill_is_refused_with_the_place(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bill"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(StackError, match="bill"):
        read_bill(file)


def test_comparing_reads_all_pages_and_exits_with_1_where_they_differ(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "bill.csv"
    file.write_text("id,amount\ngen-1,0.1\ngen-2,0.2\n", encoding="utf-8")
    pages = [
        ok({"data": [call("job-1", "0.1", "gen-1")], "next_cursor": "c"}),
        ok({"data": [call("job-2", "0.2", "gen-2")], "next_cursor": None}),
    ]
    api.will(*pages)
    same = run(api, "bill", "compare", str(file))
    api.will(*pages)
    other = run(api, "bill", "compare", str(file), "--provider", "openai")

    assert (same.exit_code, other.exit_code) == (0, 1), same.output
    assert "cursor=c" in api.asked[1]
    assert "gen-2" in other.output
