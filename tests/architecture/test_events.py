"""Every event is published by somebody and taken by somebody, and code and topology are of one mind about whom."""

import ast
from collections import Counter
from typing import NamedTuple

import pytest
from sources import SERVICES, Source, of_service

from pixorly.events import EVENTS, Event, JobRetrying
from pixorly.topology import DEAD_EXCHANGE, PUBLISHES, QUEUES, REPEATS, queues_of

KINDS = sorted(EVENTS)


class Wiring(NamedTuple):
    """A `Subscription` as the code says it."""

    service: str
    queue: str
    handler: str
    on_failure: str | None
    stage: str | None


def _wirings() -> list[Wiring]:
    return [
        _wiring(service, node)
        for service in SERVICES
        for source in of_service(service)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Subscription"
    ]


def _wiring(service: str, call: ast.Call) -> Wiring:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    queue, stage = given["queue"], given.get("stage")
    assert isinstance(queue, ast.Call)
    assert isinstance(queue.args[0], ast.Constant)
    return Wiring(
        service,
        str(queue.args[0].value),
        _handler(given["handler"]),
        _handler(given["on_failure"]) if "on_failure" in given else None,
        str(stage.value) if isinstance(stage, ast.Constant) and stage.value else None,
    )


def _handler(value: ast.expr) -> str:
    """Return the name in `handlers.name` or `partial(handlers.name, …)`."""
    function = value.args[0] if isinstance(value, ast.Call) else value
    assert isinstance(function, ast.Attribute), "a handler is a function of handlers.py"
    assert isinstance(function.value, ast.Name)
    assert function.value.id == "handlers"
    return function.attr


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_has_a_publisher_and_a_consumer(kind: str) -> None:
    publishers = [service for service, events in PUBLISHES.items() if EVENTS[kind] in events]
    consumers = [queue.name for queue in QUEUES if EVENTS[kind] in queue.events]

    assert publishers
    assert consumers


def test_the_topology_knows_the_services_and_no_others() -> None:
    assert sorted(PUBLISHES) == sorted(SERVICES)
    assert {queue.service for queue in QUEUES} == set(SERVICES)


def test_what_a_service_repeats_another_said_first() -> None:
    for service, events in REPEATS.items():
        said = {event for other, events in PUBLISHES.items() if other != service for event in events}
        assert set(events) <= said
        assert not set(events) & set(PUBLISHES[service])


def test_no_two_queues_share_a_name() -> None:
    names = [queue.name for queue in QUEUES]

    assert len(set(names)) == len(names)


def test_the_dead_letters_that_settle_are_those_of_queues_that_exist() -> None:
    keys = [key for queue in QUEUES for key in queue.dead_keys]

    assert set(keys) <= {queue.name for queue in QUEUES}
    assert DEAD_EXCHANGE == "pixorly.dead"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_makes_the_events_it_publishes_and_no_others(service: str) -> None:
    made = {name for source in of_service(service) for name in _made_in(source)}
    retries = any(wiring.stage for wiring in _wirings() if wiring.service == service)
    foreseen = {event.__name__ for event in PUBLISHES[service]}

    assert made <= foreseen
    # A queue that is a stage of a job tells of its retries by itself.
    assert foreseen - made == ({JobRetrying.__name__} if retries else set())


def _made_in(source: Source) -> set[str]:
    """Return the events whose class is called or whose `of` is taken, rather than only read."""
    classes = {event.__name__ for event in EVENTS.values()}
    found = set()
    for node in ast.walk(source.tree):
        taken = node.value if isinstance(node, ast.Attribute) and node.attr == "of" else None
        if taken is not None:
            found |= {name.id for name in ast.walk(taken) if isinstance(name, ast.Name)} & classes
        # A table of classes, one of which is then made.
        if isinstance(node, ast.Dict):
            found |= {value.id for value in node.values if isinstance(value, ast.Name)} & classes
    return found


def test_every_queue_is_listened_to_once_by_its_service_with_the_handler_of_its_name() -> None:
    wirings = _wirings()

    assert Counter(wiring.queue for wiring in wirings) == Counter(queue.name for queue in QUEUES)
    for wiring in wirings:
        assert wiring.queue == f"{wiring.service}.{wiring.handler}"


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_a_handler_is_named_for_what_it_does_to_what(queue: object) -> None:
    name = str(getattr(queue, "name", ""))
    verb, _, noun = name.partition(".")[2].partition("_")

    assert verb in {"close", "delete", "follow", "generate", "move", "settle", "store"}
    assert noun in {"dead", "image", "job"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_a_handler_for_each_of_its_queues_and_it_is_async(service: str) -> None:
    (handlers,) = [source for source in of_service(service) if source.name.endswith("/handlers.py")]
    found = {node.name for node in handlers.tree.body if isinstance(node, ast.AsyncFunctionDef)}

    assert {queue.name.partition(".")[2] for queue in queues_of(service)} <= found


def test_a_stage_of_a_job_says_what_becomes_of_its_failures() -> None:
    stages = {wiring.queue: wiring for wiring in _wirings() if wiring.stage}

    assert {queue: wiring.stage for queue, wiring in stages.items()} == {
        "generator.generate_image": "generate",
        "uploader.store_image": "upload",
    }
    assert all(wiring.on_failure for wiring in stages.values())


@pytest.mark.parametrize("service", SERVICES)
def test_a_handler_acknowledges_nothing_and_publishes_nothing_by_itself(service: str) -> None:
    (handlers,) = [source for source in of_service(service) if source.name.endswith("/handlers.py")]
    called = {
        node.func.attr
        for node in ast.walk(handlers.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert called & {"ack", "nack", "reject", "publish", "send"} == set()


def test_every_event_is_listed() -> None:
    def leaves(kind: type[Event]) -> set[type[Event]]:
        children = [child for child in kind.__subclasses__() if child.__module__ == "pixorly.events"]
        return {leaf for child in children for leaf in leaves(child)} if children else {kind}

    assert leaves(Event) == set(EVENTS.values())
