"""`pixorly pause` and `resume`: what they ask, what they show, and that they say at once what went wrong."""

import json

import pytest
from fake_api import FakeApi, ok, problem
from typer.testing import CliRunner

from pixorly_stack.cli import app

PAUSED = {"data": [{"name": "sandbox/aurora", "since": "2026-11-22T19:43:55Z", "reason": "too dear"}]}


@pytest.mark.parametrize(("word", "paused", "reason"), [("pause", True, "too dear"), ("resume", False, "")])
def test_a_model_is_paused_and_goes_on(word: str, paused: bool, reason: str) -> None:  # noqa: FBT001 - it is data
    api = FakeApi()
    api.will(ok(PAUSED))

    result = CliRunner().invoke(
        app, [word, "sandbox/aurora", *(["--reason", reason] if reason else [])], obj=lambda _folder: api.client()
    )

    assert result.exit_code == 0, result.output
    assert "sandbox/aurora" in result.output
    assert api.asked == ["PUT /admin/v1/pauses"]
    assert json.loads(api.requests[0].content) == {"name": "sandbox/aurora", "paused": paused, "reason": reason}


def test_a_generator_that_can_not_be_told_is_reported_at_once_and_not_tried_again() -> None:
    api = FakeApi()
    api.will(problem(503, "service_unavailable", detail="The generator can't be told (ReadTimeout)."))

    result = CliRunner().invoke(app, ["pause", "sandbox"], obj=lambda _folder: api.client())

    assert result.exit_code == 1
    assert "The generator can't be told" in result.output
    assert len(api.asked) == 1
