"""Write the files that follow from the code, or with `--check` say which of them no longer do.

They are `.env.example` (from the settings classes), `docs/events.md` and `docs/asyncapi.json` (from the events and the
topology), `docs/outcomes.md` and `docs/errors.md` (from the table of outcomes), `docs/metrics.md` (from the metrics),
Grafana's dashboards (from `dashboards.py`), and what the chart holds of these and of the alerts.
"""

import importlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from async_api import asyncapi_doc
from dashboards import DASHBOARDS, rendered
from prometheus_client.metrics import MetricWrapperBase
from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from pixorly.events import EVENTS, Event
from pixorly.metrics import ALL, LABELS, Described
from pixorly.outcomes import OUTCOMES, Outcome
from pixorly.settings import AmqpSettings, LedgerClientSettings, ProcessSettings, Settings, StorageSettings
from pixorly.topology import PUBLISHES, QUEUES
from pixorly_api.settings import ApiSettings
from pixorly_generator.settings import GeneratorSettings
from pixorly_ledger.settings import LedgerSettings
from pixorly_uploader.settings import UploaderSettings

ROOT = Path(__file__).parent.parent

ENV_HEAD = """\
# Every setting of every service, with its default. Put what you need into the environment, or for docker compose into a
# file `.env` (passwords and keys are files there: docs/deploying.md). What a service does not take it does not read.
# Lines without a `#` must be given.
"""
SECTIONS: list[tuple[str, type[Settings]]] = [
    ("Every process", ProcessSettings),
    ("Every process that talks to RabbitMQ", AmqpSettings),
    ("The object store: api, generator, uploader", StorageSettings),
    ("Those who call the ledger: api, uploader; the ledger takes the same token", LedgerClientSettings),
    ("api", ApiSettings),
    ("generator", GeneratorSettings),
    ("uploader", UploaderSettings),
    ("ledger", LedgerSettings),
]


def name_of(field: str, info: FieldInfo) -> str:
    """Return the environment variable of a field: the one that AWS or OpenRouter call it, where there is one."""
    if isinstance(info.validation_alias, AliasChoices):
        return next(str(choice) for choice in info.validation_alias.choices if str(choice).isupper())
    return f"PIXORLY_{field.upper()}"


def text_of(value: Any) -> str:
    """Return a default as it would stand in the environment."""
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, dict):
        # What is written by models is explained in words, and too long for a line.
        return "" if any(isinstance(one, BaseModel) for one in value.values()) else json.dumps(value)
    if isinstance(value, tuple | list):
        return ",".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting_lines(section: type[Settings], told: set[str]) -> list[str]:
    """Return the lines of a class's own fields; what a section above told alike is left out."""
    lines: list[str] = []
    for field, info in section.model_fields.items():
        default = text_of(None if info.is_required() else info.get_default(call_default_factory=True))
        line = f"{'' if info.is_required() else '#'}{name_of(field, info)}={default}"
        if line in told:
            continue
        told.add(line)
        if info.description:
            lines.append(f"# {' '.join(info.description.split())}")
        lines.append(line)
    return lines


def env_example() -> str:
    """Return `.env.example`."""
    told: set[str] = set()
    parts = [ENV_HEAD]
    for title, section in SECTIONS:
        if lines := setting_lines(section, told):
            parts.append("\n".join([f"# --- {title} ---", "", *lines, ""]))
    return "\n".join(parts)


def type_name(annotation: Any) -> str:
    """Return a type in the words of JSON."""
    if isinstance(annotation, type) and not get_args(annotation):
        names = {"str": "text", "int": "integer", "float": "number", "UUID": "uuid", "datetime": "time"}
        return names.get(annotation.__name__, annotation.__name__)
    text = str(annotation)
    for long, short in (("typing.", ""), ("pixorly.events.", ""), ("uuid.UUID", "uuid"), ("<class '", ""), ("'>", "")):
        text = text.replace(long, short)
    return text.replace("|", "or")


def field_rows(model: type[BaseModel], left_out: set[str]) -> list[str]:
    """Return a table row for each field."""
    rows = []
    for name, info in model.model_fields.items():
        if name in left_out:
            continue
        need = "always" if info.is_required() else "optional"
        rows.append(f"| `{name}` | {type_name(info.annotation)} | {need} |")
    return rows


def event_section(event: type[Event]) -> str:
    """Return what there is to say of one event."""
    publishers = ", ".join(f"`{service}`" for service, published in PUBLISHES.items() if event in published)
    consumers = ", ".join(f"`{queue.name}`" for queue in QUEUES if event in queue.events)
    told_apart = "".join(f", `{name}`" for name in event.identity)
    version = f"Schema version {event.schema_version}; its id follows from `job_id`{told_apart}."
    return "\n".join(
        [
            f"## {event.type}",
            "",
            " ".join([(event.__doc__ or "").strip(), f"Published by {publishers}; taken by {consumers}.", version]),
            "",
            "| field | type | given |",
            "|---|---|---|",
            *field_rows(event, set(Event.model_fields)),
            "",
        ]
    )


def events_doc() -> str:
    """Return `docs/events.md`."""
    head = [
        "# Events",
        "",
        "Generated from `libs/common/pixorly/events.py` and `topology.py` by `make generated`.",
        "",
        "Every event goes to the topic exchange `pixorly.events` under its type. The body is JSON. AMQP properties:",
        "`message_id` is the event's id, `type` its type, `correlation_id` the job's id, `timestamp` and delivery mode",
        "persistent. Headers: `traceparent`, `pixorly-schema`, `pixorly-attempt` and the CloudEvents",
        "attributes as `cloudEvents_*`. Readers ignore fields that they do not know.",
        "",
        "Every event carries `event_id`, `occurred_at`, `job_id` and `user_id`. For tools, the same stands in",
        "[asyncapi.json](asyncapi.json) (AsyncAPI 3.0).",
        "",
    ]
    return "\n".join([*head, *(event_section(event) for event in EVENTS.values())])


def outcome_row(outcome: Outcome) -> str:
    """Return a table row for one outcome."""
    who = {"server": "nobody: refunded", "user": "the user", None: "nothing was charged"}[outcome.fault]
    retries = "waits" if outcome.waits else str(outcome.retries)
    return f"| `{outcome.code}` | {outcome.status} | {retries} | {who} | {outcome.message} |"


def outcomes_doc() -> str:
    """Return `docs/outcomes.md`."""
    head = [
        "# Outcomes",
        "",
        "Generated from `libs/common/pixorly/outcomes.py` by `make generated`; `GET /v1/outcomes` serves the same.",
        "It alone decides whether a failure is retried and who pays.",
        "",
        "| code | HTTP status | retries | who pays | words for the user |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(outcome_row(outcome) for outcome in OUTCOMES.values()), ""])


def error_row(outcome: Outcome) -> str:
    """Return a table row for one error that a request may be answered with."""
    return f"| {outcome.status} | `{outcome.code}` | {outcome.message} |"


def errors_doc() -> str:
    """Return `docs/errors.md`."""
    head = [
        "# Errors",
        "",
        "Generated from `libs/common/pixorly/outcomes.py` by `make generated`.",
        "",
        "Every error, on every route, is a problem body (RFC 9457, `application/problem+json`):",
        "",
        "```json",
        '{"type": "urn:pixorly:error:insufficient_credits", "title": "There are not enough credits for this job.",',
        ' "status": 402, "detail": "…", "code": "insufficient_credits", "request_id": "0199…",',
        ' "needed_credits": 10, "available_credits": 4}',
        "```",
        "",
        "`code` is stable and says what to do; `title` and `detail` are words for people and may change. Facts stand",
        "beside them, such as `needed_credits`, `quota_bytes` or, for `invalid_request`, `errors` with each bad field.",
        "429 and 503 come with `Retry-After`; a request that has an `Idempotency-Key` may be repeated after it.",
        "",
        "| status | code | words |",
        "|---|---|---|",
    ]
    asked = [outcome for outcome in OUTCOMES.values() if not outcome.fault or outcome.code == "internal_error"]
    rows = [error_row(outcome) for outcome in sorted(asked, key=lambda outcome: (outcome.status, outcome.code))]
    more = ["", "What ends an image of a job, and who pays for it, is in [outcomes.md](outcomes.md).", ""]
    return "\n".join([*head, *rows, *more])


PROCESSES = {
    "api": "pixorly_api.app",
    "api-worker": "pixorly_api.worker",
    "generator": "pixorly_generator.worker",
    "uploader": "pixorly_uploader.worker",
    "ledger": "pixorly_ledger.app",
}


def makers() -> dict[str, str]:
    """Return the module that makes each metric, by the metric's name without `_total`."""
    # What sends telemetry is imported by those only that do.
    for module in (*PROCESSES.values(), "pixorly.otlp"):
        importlib.import_module(module)
    found: dict[str, str] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("pixorly"):
            for value in vars(module).values():
                if isinstance(value, MetricWrapperBase):
                    found.setdefault(next(iter(value.describe())).name, name)
    return found


def metric_row(metric: Described) -> str:
    """Return a table row for one metric."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"


def metrics_doc() -> str:
    """Return `docs/metrics.md`."""
    made_by = makers()
    lines = [
        "# Metrics",
        "",
        "Generated from the code by `make generated`. Every process serves Prometheus' text at `/metrics`, and sends",
        "the same over OTLP where that is set; [observability.md](observability.md) says how to look at them.",
        "",
        "A name ends with its unit. A histogram also has `_bucket`, `_sum` and `_count`.",
        "",
    ]
    packages = {"pixorly": "Every process that does such a thing"} | {
        f"pixorly_{name}": name for name in ("api", "generator", "uploader", "ledger")
    }
    for package, title in packages.items():
        rows = [
            metric_row(metric)
            for name, metric in sorted(ALL.items())
            if made_by[name.removesuffix("_total")].partition(".")[0] == package
        ]
        lines += [f"## {title}", "", "| name | kind | labels | meaning |", "|---|---|---|---|", *rows, ""]
    lines += ["## Labels", "", "| label | values |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{label}` | {words} |" for label, words in sorted(LABELS.items())), ""])


FILES: dict[str, Callable[[], str]] = {
    ".env.example": env_example,
    "docs/asyncapi.json": asyncapi_doc,
    "docs/events.md": events_doc,
    "docs/errors.md": errors_doc,
    "docs/outcomes.md": outcomes_doc,
    "docs/metrics.md": metrics_doc,
    **{f"deploy/grafana/dashboards/{name}.json": partial(rendered, page) for name, page in DASHBOARDS.items()},
    # A chart can hold nothing that lies outside of it.
    **{f"deploy/helm/files/{name}.json": partial(rendered, page) for name, page in DASHBOARDS.items()},
    "deploy/helm/files/rules.yaml": (ROOT / "deploy/prometheus/rules/pixorly.yaml").read_text,
}


def main() -> int:
    """Write or check."""
    stale = [name for name, make in FILES.items() if _text(ROOT / name) != make()]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name} no longer follows from the code: run `make generated`.")
        return bool(stale)
    for name in stale:
        (ROOT / name).write_text(FILES[name](), encoding="utf-8")
        print(f"wrote {name}")
    return 0


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
