"""docs/asyncapi.json: a document as its specification wants it, whose schemas are those of the events."""

import json
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from samples import golden

from pixorly.events import EVENTS
from pixorly.topology import QUEUES

DOCUMENT: Final[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "docs/asyncapi.json").read_text())


def schema_of(kind: str) -> jsonschema_rs.Validator:
    """Return the schema of a message's body, with what it refers to."""
    message = DOCUMENT["components"]["messages"][kind]
    return jsonschema_rs.validator_for({**message["payload"], "components": DOCUMENT["components"]})


def test_it_is_a_document_of_version_three() -> None:
    read = ApplicationSchema.model_validate(DOCUMENT)

    assert read.asyncapi == "3.0.0"
    assert set(read.channels) == set(EVENTS)


def test_every_event_has_who_sends_it_and_every_queue_what_it_takes() -> None:
    told = {
        (one["action"], one["channel"]["$ref"].removeprefix("#/channels/")) for one in DOCUMENT["operations"].values()
    }

    assert {kind for action, kind in told if action == "send"} == set(EVENTS)
    assert {kind for action, kind in told if action == "receive"} == {
        event.type for queue in QUEUES for event in queue.events
    }


@pytest.mark.parametrize("kind", sorted(EVENTS))
def test_an_event_as_it_travels_is_what_its_schema_says_and_less_is_not(kind: str) -> None:
    schema, sent = schema_of(kind), golden(kind)

    schema.validate(sent)
    assert not schema.is_valid({name: value for name, value in sent.items() if name != "job_id"})
    assert not schema.is_valid({**sent, "job_id": 1})
