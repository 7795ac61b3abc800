"""What a statement is called in a span: what it does, and to which table."""

import pytest

from pixorly.db import summary_of


@pytest.mark.parametrize(
    ("query", "summary"),
    [
        ("select status from jobs where job_id = $1", ("SELECT", "jobs")),
        ("select a from jobs where b for update skip locked", ("SELECT", "jobs")),
        ("with a as (select b from c for no key update of c) insert into d select 1", ("INSERT", "d")),
        ("with asked as (select * from unnest($1::uuid[])) insert into jobs select 1", ("INSERT", "jobs")),
        ("insert into attempts (a) values ($1) on conflict do update set a = 1", ("INSERT", "attempts")),
        ("update jobs set status = $1", ("UPDATE", "jobs")),
        ("delete from outbox where event_id = any($1)", ("DELETE", "outbox")),
        ("COMMIT;", ("COMMIT", "")),
        ("BEGIN;", None),
        ("select t.oid from pg_catalog.pg_type", None),
        ("select 1", None),
    ],
)
def test_a_statement_is_named_after_what_it_does(query: str, summary: tuple[str, str] | None) -> None:
    assert summary_of(query) == summary
