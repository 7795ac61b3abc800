"""Grafana's dashboards as code: what `make generated` writes to deploy/grafana/dashboards."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

WIDTH: Final = 24
HEIGHT: Final = 8
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
JOBS: Final = 'job=~"pixorly-.+"'


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: What it shows, as people would ask for it.
        queries: By the words of its legend.
        unit: Grafana's name of the unit.
        kind: `timeseries`, or `stat` for a number.
        columns: Its width, of 24.
        red_from: From which value on it is drawn in red.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    columns: int = 8
    stacked: bool = False
    red_from: float | None = None
    about: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One page: rows of panels under a heading each."""

    uid: str
    title: str
    rows: dict[str, list[Panel]]
    variables: dict[str, str] = field(default_factory=dict)


def number(title: str, query: str, unit: str = "short", red_from: float | None = None, about: str = "") -> Panel:
    """Return a panel with one number, a sixth of the page wide."""
    return Panel(title, {"": query}, unit, "stat", 4, red_from=red_from, about=about)


def quantiles(metric: str, by: str = "", only: str = "") -> dict[str, str]:
    """Return queries for the median, the 95th and the 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    words = f" {{{{{by}}}}}" if by else ""
    rate = f"sum by ({labels}) (rate({metric}_bucket{only}[$__rate_interval]))"
    return {f"p{share * 100:g}{words}": f"histogram_quantile({share}, {rate})" for share in (0.5, 0.95, 0.99)}


def p95(metric: str, by: str, only: str = "") -> dict[str, str]:
    """Return a query for the 95th percentile of a histogram, for each value of a label."""
    rate = f"sum by (le, {by}) (rate({metric}_bucket{only}[$__rate_interval]))"
    return {f"{{{{{by}}}}}": f"histogram_quantile(0.95, {rate})"}


def rate(metric: str, *by: str, only: str = "") -> dict[str, str]:
    """Return a query for a counter's pace in a second, for each combination of labels."""
    words = " ".join(f"{{{{{label}}}}}" for label in by)
    return {words: f"sum by ({', '.join(by)}) (rate({metric}{only}[$__rate_interval]))"}


SETTLED: Final = "pixorly_slots_settled_total"
SUCCESS: Final = (
    f'sum(rate({SETTLED}{{outcome="delivered"}}[$__rate_interval]))'
    f' / sum(rate({SETTLED}{{outcome=~"delivered|server_fault"}}[$__rate_interval]))'
)

JOURNEY: Final = Dashboard(
    "pixorly-journey",
    "Pixorly: the journey of a job",
    {
        "Is it well?": [
            number(
                "Images delivered, of those we owe", SUCCESS, "percentunit", about="Failures of users do not count."
            ),
            number("Jobs a minute", "60 * sum(rate(pixorly_jobs_created_total[$__rate_interval]))"),
            number("Open jobs", "sum(max by (status) (pixorly_jobs_open))"),
            number("Oldest open job", "max(pixorly_jobs_oldest_open_seconds)", "s", 1800),
            number("Past their deadline", "max(pixorly_jobs_overdue)", red_from=1),
            number("Dead letters", "sum(max by (queue) (pixorly_dead_letters_waiting))", red_from=1),
        ],
        "From the request to the answer": [
            Panel("Jobs created, by model", rate("pixorly_jobs_created_total", "model"), "ops", stacked=True),
            Panel("Jobs settled, by how", rate("pixorly_jobs_settled_total", "status"), "ops", stacked=True),
            Panel("Open jobs, by state", {"{{status}}": "max by (status) (pixorly_jobs_open)"}, stacked=True),
            Panel("From creation to the end", quantiles("pixorly_job_seconds"), "s"),
            Panel("The same, 95th percentile by model", p95("pixorly_job_seconds", "model"), "s"),
            Panel("Clients who wait for a change", {"{{job}}": "sum by (job) (pixorly_watches)"}),
        ],
        "What becomes of images": [
            Panel("Slots settled, by whose fault", rate(SETTLED, "outcome"), "ops", stacked=True),
            Panel("Slots that failed, by why and where", rate("pixorly_slots_failed_total", "code", "stage"), "ops"),
            Panel("Retries, by stage and why", rate("pixorly_retries_total", "stage", "code"), "ops"),
        ],
        "At the provider": [
            Panel("Calls, by how they ended", rate("pixorly_provider_calls_total", "provider", "code"), "ops"),
            Panel("How long calls take, 95th percentile", p95("pixorly_provider_call_seconds", "model"), "s"),
            Panel(
                "Breakers that are open",
                {"{{provider}} {{model}}": "max by (provider, model) (pixorly_provider_breaker_open)"},
                red_from=1,
            ),
            Panel("Calls under way", {"{{provider}}": "sum by (provider) (pixorly_provider_calls_in_flight)"}),
            Panel(
                "Refusals of our own account",
                rate("pixorly_provider_account_faults_total", "provider", "reason"),
                "ops",
            ),
            Panel(
                "Calls made again, and answers that came too late",
                {
                    "made again": "sum(increase(pixorly_provider_calls_taken_over_total[1h]))",
                    "too late": "sum(increase(pixorly_provider_calls_late_total[1h]))",
                },
                about="In an hour. Each may have been paid for twice.",
            ),
        ],
        "Into the bucket": [
            Panel("Making thumbnails", quantiles("pixorly_image_develop_seconds"), "s"),
            Panel("Calls to the object store, 95th percentile", p95("pixorly_object_seconds", "operation"), "s"),
            Panel("Bytes to and from it", rate("pixorly_object_bytes_total", "operation"), "Bps"),
            Panel(
                "Images that wait to be stored, and calls that wait for them",
                {
                    "images": "max(pixorly_generator_images_to_store)",
                    "calls": "sum(pixorly_generator_calls_held_back)",
                },
                about="While many images wait, no new call is begun.",
            ),
        ],
    },
)

MONEY: Final = Dashboard(
    "pixorly-money",
    "Pixorly: money",
    {
        "Does it add up?": [
            number("Users have, in credits", "max(pixorly_credits_available)"),
            number("In escrow, in credits", "max(pixorly_escrow_credits)"),
            number("Open charges", "max(pixorly_charges_open)"),
            number("Oldest open charge", "max(pixorly_charges_oldest_open_seconds)", "s", 2100),
            number(
                "Settlements without a charge, in a day",
                'sum(increase(pixorly_settlements_total{result="missing"}[1d]))',
                red_from=1,
            ),
            number("Cost of providers in a day", "sum(increase(pixorly_provider_cost_usd_total[1d]))", "currencyUSD"),
        ],
        "Credits": [
            Panel(
                "Taken, kept and given back",
                {
                    "taken for jobs": "sum(rate(pixorly_credits_charged_total[$__rate_interval]))",
                    "kept": "sum(rate(pixorly_credits_captured_total[$__rate_interval]))",
                    "given back": "sum(rate(pixorly_credits_refunded_total[$__rate_interval]))",
                },
                about="Credits in a second.",
            ),
            Panel("Given to users, by kind", rate("pixorly_credits_granted_total", "kind")),
            Panel(
                "In escrow and open charges",
                {"credits": "max(pixorly_escrow_credits)", "charges": "max(pixorly_charges_open)"},
            ),
            Panel(
                "Age of the oldest open charge", {"age": "max(pixorly_charges_oldest_open_seconds)"}, "s", red_from=2100
            ),
            Panel("Charges that were refused, by why", rate("pixorly_charges_refused_total", "code"), "ops"),
            Panel("Settlements, by what they met", rate("pixorly_settlements_total", "result"), "ops"),
        ],
        "What it costs us": [
            Panel(
                "Cost by model, in an hour",
                {"{{provider}} {{model}}": "sum by (provider, model) (increase(pixorly_provider_cost_usd_total[1h]))"},
                "currencyUSD",
                stacked=True,
            ),
            Panel(
                "What is left of our account",
                {"{{provider}}": "min by (provider) (pixorly_provider_account_left_usd)"},
                "currencyUSD",
            ),
            Panel(
                "For how long it lasts",
                {
                    "{{provider}}": "min by (provider) (pixorly_provider_account_left_usd)"
                    " / sum by (provider) (rate(pixorly_provider_cost_usd_total[6h]))"
                },
                "s",
                about="At the pace of the last six hours.",
            ),
        ],
        "Storage": [
            Panel("Stored for users", {"stored": "max(pixorly_storage_used_bytes)"}, "bytes"),
            Panel("Kept for images under way", {"reserved": "max(pixorly_storage_reserved_bytes)"}, "bytes"),
            Panel(
                "In and out",
                {
                    "in": "sum(rate(pixorly_storage_stored_bytes_total[$__rate_interval]))",
                    "out": "sum(rate(pixorly_storage_released_bytes_total[$__rate_interval]))",
                },
                "Bps",
            ),
        ],
    },
)

ONE: Final = '{job=~"$job"}'
SERVICES: Final = Dashboard(
    "pixorly-services",
    "Pixorly: service by service",
    {
        "Processes": [
            Panel("Answer Prometheus", {"{{job}} {{instance}}": 'up{job=~"$job"}'}, columns=6),
            Panel(
                "Version",
                {"{{service}} {{version}}": f"count by (service, version) (pixorly_build_info{ONE})"},
                columns=6,
            ),
            Panel(
                "Parts that are there", {"{{job}} {{part}}": f"min by (job, part) (pixorly_part_up{ONE})"}, columns=6
            ),
            Panel(
                "Connections to PostgreSQL",
                {"{{job}} {{state}}": f"sum by (job, state) (pixorly_database_connections{ONE})"},
                columns=6,
            ),
        ],
        "HTTP": [
            Panel(
                "Requests, by status", rate("pixorly_http_request_seconds_count", "job", "status", only=ONE), "reqps"
            ),
            Panel("How long they take", quantiles("pixorly_http_request_seconds", "job", ONE), "s"),
            Panel("95th percentile, by route", p95("pixorly_http_request_seconds", "route", ONE), "s"),
        ],
        "Messages": [
            Panel("By what became of them", rate("pixorly_messages_total", "queue", "fate", only=ONE), "ops"),
            Panel("How long in hand, 95th percentile", p95("pixorly_message_seconds", "queue", ONE), "s"),
            Panel("In hand", {"{{queue}}": f"sum by (queue) (pixorly_messages_in_hand{ONE})"}),
            Panel(
                "That wait for a part that is away",
                {"{{queue}} {{part}}": f"sum by (queue, part) (pixorly_messages_waiting{ONE})"},
                red_from=1,
            ),
            Panel(
                "Age of the outbox", {"{{job}}": f"max by (job) (pixorly_outbox_lag_seconds{ONE})"}, "s", red_from=60
            ),
            Panel("Events published, by how", rate("pixorly_outbox_published_total", "job", "path", only=ONE), "ops"),
        ],
        "Behind the scenes": [
            Panel("What sweeps found to do", rate("pixorly_swept_total", "sweep", only=ONE), "ops"),
            Panel("Telemetry thrown away", rate("pixorly_telemetry_dropped_total", "job", "signal", only=ONE), "ops"),
            Panel(
                "Dead letters dealt with", rate("pixorly_dead_letters_handled_total", "queue", "fate", only=ONE), "ops"
            ),
        ],
    },
    {"job": f"label_values(up{{{JOBS}}}, job)"},
)

QUEUES: Final = Dashboard(
    "pixorly-queues",
    "Pixorly: queues",
    {
        "Work": [
            Panel("Waiting", {"{{queue}}": "max by (queue) (pixorly_queue_messages)"}, columns=12),
            Panel(
                "Age when first taken up, 95th percentile", p95("pixorly_message_age_seconds", "queue"), "s", columns=12
            ),
            Panel("In hand", {"{{queue}}": "sum by (queue) (pixorly_messages_in_hand)"}),
            Panel("Done", rate("pixorly_messages_total", "queue", only='{fate="done"}'), "ops"),
            Panel("Put on the ladder", rate("pixorly_messages_total", "queue", only='{fate="retried"}'), "ops"),
        ],
        "The dead": [
            Panel("Waiting for a person", {"{{queue}}": "max by (queue) (pixorly_dead_letters_waiting)"}, red_from=1),
            Panel("Died, by why", rate("pixorly_dead_letters_total", "queue", "reason"), "ops"),
            Panel("Age of the outboxes", {"{{job}}": "max by (job) (pixorly_outbox_lag_seconds)"}, "s", red_from=60),
        ],
        "RabbitMQ": [
            Panel("Ready, by queue", {"{{queue}}": "max by (queue) (rabbitmq_queue_messages_ready) > 0"}),
            Panel(
                "Delivered and not acknowledged", {"{{queue}}": "max by (queue) (rabbitmq_queue_messages_unacked) > 0"}
            ),
            Panel("Consumers", {"{{queue}}": "max by (queue) (rabbitmq_queue_consumers) > 0"}),
            Panel("Connections", {"{{instance}}": "rabbitmq_connections"}, columns=6),
            Panel(
                "Memory",
                {
                    "{{instance}}": "rabbitmq_process_resident_memory_bytes",
                    "{{instance}} alarm": "rabbitmq_resident_memory_limit_bytes",
                },
                "bytes",
                columns=6,
            ),
            Panel("Disk that is free", {"{{instance}}": "rabbitmq_disk_space_available_bytes"}, "bytes", columns=6),
            Panel(
                "Alarms",
                {
                    "{{instance}} memory": "rabbitmq_alarms_memory_used_watermark",
                    "{{instance}} disk": "rabbitmq_alarms_free_disk_space_watermark",
                },
                columns=6,
                red_from=1,
            ),
        ],
    },
)

DASHBOARDS: Final = {"journey": JOURNEY, "money": MONEY, "services": SERVICES, "queues": QUEUES}
"""By the name of the file."""


def rendered(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, row in dashboard.rows.items():
        panels.append(
            {"type": "row", "title": heading, "gridPos": _place(0, y, WIDTH, 1), "collapsed": False, "panels": []}
        )
        x, y = 0, y + 1
        for panel in row:
            if x + panel.columns > WIDTH:
                x, y = 0, y + _height(panel)
            panels.append(_panel(panel, _place(x, y, panel.columns, _height(panel))))
            x += panel.columns
        y += _height(row[-1])
    numbered = [{"id": place, **panel} for place, panel in enumerate(panels, 1)]
    page = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["pixorly"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "graphTooltip": 1,
        "links": [
            {"type": "dashboards", "tags": ["pixorly"], "title": "Pixorly", "asDropdown": False, "keepTime": True}
        ],
        "templating": {"list": [_variable(name, query) for name, query in dashboard.variables.items()]},
        "annotations": {"list": []},
        "panels": numbered,
    }
    return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _height(panel: Panel) -> int:
    return HEIGHT // 2 if panel.kind == "stat" else HEIGHT


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "lineWidth": 1}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal"}
    if panel.red_from is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
    defaults = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": SOURCE}
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    options = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
        if panel.kind == "stat"
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": defaults if panel.kind == "stat" else {**defaults, "custom": custom},
            "overrides": [],
        },
        "options": options,
        "targets": targets,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": "process",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
