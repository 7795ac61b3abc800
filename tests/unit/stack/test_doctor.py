"""The doctor says what is wrong, and what to do."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from pixorly_stack.doctor import Finding, examine
from pixorly_stack.settings import StackSettings

NOWHERE = "127.0.0.1:9"


def findings(tmp_path: Path, **given: object) -> dict[str, Finding]:
    settings = StackSettings(**{"dir": tmp_path, "cache_dir": tmp_path, **given})
    return {finding.name: finding for finding in examine(settings)}


def test_a_machine_on_which_tests_run_has_a_good_python(tmp_path: Path) -> None:
    found = findings(tmp_path)

    assert found["python"].good
    assert found["platform"].good
    assert "nothing runs" in found["stack"].said


@pytest.mark.parametrize(
    ("part", "given", "setting"),
    [
        ("postgres", {"database_url": SecretStr(f"postgresql://{NOWHERE}/x")}, "PIXORLY_DATABASE_URL"),
        ("rabbitmq", {"amqp_url": SecretStr(f"amqp://{NOWHERE}/")}, "PIXORLY_AMQP_URL"),
        ("s3", {"s3_endpoint_url": f"http://{NOWHERE}"}, "PIXORLY_S3_ENDPOINT_URL"),
    ],
)
def test_a_server_that_does_not_answer_is_named_by_its_setting(
    tmp_path: Path, part: str, given: dict[str, object], setting: str
) -> None:
    finding = findings(tmp_path, **given)[part]

    assert not finding.good
    assert finding.said.startswith(f"{setting} does not answer")


def test_programs_that_are_not_there_come_with_advice(tmp_path: Path) -> None:
    finding = findings(tmp_path, rabbitmq_bin=tmp_path, postgres_bin=tmp_path)

    assert not finding["rabbitmq"].good
    assert any("apt-get install rabbitmq-server" in way for way in finding["rabbitmq"].advice)
    assert any("PIXORLY_DATABASE_URL" in way for way in finding["postgres"].advice)
