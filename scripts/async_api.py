"""The events as an AsyncAPI document (3.0), for tools that read one; the same data as `docs/events.md`."""

import json
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from pixorly.events import EVENTS, Event
from pixorly.topology import EVENTS_EXCHANGE, PUBLISHES, QUEUES

_TEXT: Final = {"type": "string"}
_HEADERS: Final = {
    "type": "object",
    "properties": {
        "traceparent": {**_TEXT, "description": "The W3C trace context of what it follows from."},
        "pixorly-schema": {"type": "integer", "description": "The version of the body's schema."},
        "pixorly-attempt": {"type": "integer", "description": "How often it was retried, and once more."},
    },
}
_EXCHANGE: Final = {"name": EVENTS_EXCHANGE, "type": "topic", "durable": True, "autoDelete": False}


def asyncapi_doc() -> str:
    """Return `docs/asyncapi.json`."""
    _, schemas = models_json_schema(
        [(event, "serialization") for event in EVENTS.values()], ref_template="#/components/schemas/{model}"
    )
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Pixorly's events",
            "version": "0.1.0",
            "description": "Generated from `libs/common/pixorly/events.py` and `topology.py` by `make generated`.",
        },
        "defaultContentType": "application/json",
        "channels": {kind: _channel(kind) for kind in EVENTS},
        "operations": _operations(),
        "components": {
            "messages": {kind: _message(event) for kind, event in EVENTS.items()},
            "schemas": schemas["$defs"],
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _channel(kind: str) -> dict[str, Any]:
    return {
        "address": kind,
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
        "bindings": {"amqp": {"is": "routingKey", "exchange": _EXCHANGE, "bindingVersion": "0.3.0"}},
    }


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event.type,
        "summary": " ".join((event.__doc__ or "").split()),
        "headers": _HEADERS,
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {"amqp": {"messageType": event.type, "bindingVersion": "0.3.0"}},
    }


def _operations() -> dict[str, Any]:
    """Return who publishes what, and which queue takes what."""
    sent = {f"{service}.publishes.{event.type}": ("send", event) for service, of in PUBLISHES.items() for event in of}
    taken = {f"{queue.name}.takes.{event.type}": ("receive", event) for queue in QUEUES for event in queue.events}
    return {
        name: {"action": action, "channel": {"$ref": f"#/channels/{event.type}"}}
        for name, (action, event) in {**sent, **taken}.items()
    }
