"""The events as they travel, against golden files: what changes them breaks whoever is not deployed yet."""

import json

import pytest
from pydantic import BaseModel
from samples import GOLDEN, SAMPLES, golden

from pixorly.events import EVENTS, Event

KINDS = sorted(EVENTS)


def test_every_event_has_its_sample_and_its_golden_files_and_there_are_no_others() -> None:
    files = {file.name for file in GOLDEN.iterdir()}

    assert sorted(SAMPLES) == KINDS
    assert files == {f"{kind}{part}.json" for kind in KINDS for part in ("", ".unknown-fields", ".v1")}


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_travels_as_its_golden_file_says(kind: str) -> None:
    assert json.loads(SAMPLES[kind].to_json()) == golden(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_file_is_read_as_the_event(kind: str) -> None:
    event = EVENTS[kind].model_validate_json(json.dumps(golden(kind)))

    assert event == SAMPLES[kind]
    assert type(event) is EVENTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_fills_every_field_so_that_its_golden_file_shows_it(kind: str) -> None:
    assert _unfilled(SAMPLES[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_nobody_knows_yet_are_ignored(kind: str) -> None:
    sent = golden(f"{kind}.unknown-fields")

    assert sent["from_the_future"]
    assert EVENTS[kind].model_validate_json(json.dumps(sent)) == SAMPLES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_of_the_first_version_is_still_read(kind: str) -> None:
    sent = golden(f"{kind}.v1")

    event = EVENTS[kind].model_validate_json(json.dumps(sent))

    assert json.loads(event.model_dump_json(exclude_unset=True)) == sent


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_of_the_first_version_keeps_its_id(kind: str) -> None:
    """An id that is derived in another way would let a repeat pass for news during a deploy."""
    assert str(SAMPLES[kind].event_id) == golden(f"{kind}.v1")["event_id"]


def test_what_the_first_version_left_out_has_its_old_meaning() -> None:
    def read(kind: str) -> Event:
        return EVENTS[kind].model_validate(golden(f"{kind}.v1"))

    def defaults(kind: str) -> dict[str, object]:
        event = read(kind)
        return {name: getattr(event, name) for name in set(type(event).model_fields) - event.model_fields_set}

    assert defaults("job.created") == {"fallback_models": (), "visibility": "private"}
    assert defaults("job.started") == {"call_no": 0, "model": None}
    assert defaults("job.retrying") == {"index": 0, "message": ""}
    assert defaults("image.generated") == {"model": None, "prompt_revised": None, "visibility": "private"}
    assert defaults("image.uploaded") == {"thumbnail_bytes": 0, "model": None}
    assert defaults("image.failed") == {}
    assert defaults("image.deleted") == {"keys": ()}
    assert defaults("image.moving") == defaults("image.moved") == {}
    assert defaults("image.vacated") == {"move": 0}
    for kind in ("job.completed", "job.failed", "job.canceled"):
        assert defaults(kind) == {"started_at": None, "retry_count": 0}


def _unfilled(model: BaseModel, where: str = "") -> list[str]:
    found = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        parts = value if isinstance(value, tuple) else (value,)
        models = [part for part in parts if isinstance(part, BaseModel)]
        if models and isinstance(value, tuple):
            # Of several, each field is filled in one at least, for an uploaded slot has no code.
            unfilled = [set(_unfilled(part, f"{where}{name}.")) for part in models]
            found += sorted(set.intersection(*unfilled))
        elif models:
            found += _unfilled(models[0], f"{where}{name}.")
        elif not field.is_required() and value == field.get_default(call_default_factory=True):
            found.append(f"{where}{name}")
    return found
