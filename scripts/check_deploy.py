"""Check everything in deploy/ and docker-compose.yml without an engine or a cluster; `make check-deploy` calls it.

It runs in an environment of its own (deploy/requirements.lock), for what it checks with is heavy. What it can't see:
whether images that are named can be pulled, and whether an engine or a cluster does with the files what they say.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import helm_python
import kubernetes_validate
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT: Final = Path(__file__).parent.parent
DEPLOY: Final = ROOT / "deploy"
TOOLS: Final = Path(sys.executable).parent
KUBERNETES: Final = ("1.30", "1.37")
"""The oldest and the newest version that the chart is rendered for."""
FOREIGN: Final = {
    "keda.sh/v1alpha1": {"ScaledObject": {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"}},
    "monitoring.coreos.com/v1": {"ServiceMonitor": {"selector", "endpoints"}, "PrometheusRule": {"groups"}},
    "rabbitmq.com/v1beta1": {"RabbitmqCluster": {"replicas", "persistence", "rabbitmq", "resources"}},
    "postgresql.cnpg.io/v1": {
        "Cluster": {"instances", "storage", "bootstrap"},
        "ScheduledBackup": {"schedule", "cluster"},
    },
}
"""Kinds of others, whose schemas are in no registry: what their `spec` has to hold at least."""
SERVICES: Final = ("api", "api-worker", "generator", "uploader", "ledger")
CALLS: Final = {("api", "ledger"), ("api-worker", "ledger"), ("uploader", "ledger"), ("api", "generator")}
"""Who calls whom over HTTP, and nobody else (docs/ARCHITECTURE.md)."""
EVERYTHING: Final[dict[str, Any]] = {
    "image": {"registry": "registry.example.com", "pullSecrets": ["registry"]},
    "storage": {"endpointUrl": "http://minio.minio:9000", "sse": "none", "kmsKeyId": "key"},
    "cloudfront": {"domain": "cdn.example.com", "keyPairId": "K1", "distributionId": "E1"},
    "modelsFile": "[models]\n# it's a text\n",
    "keda": {"enabled": True},
    "processes": {name: {"autoscaling": {"enabled": True}, "nodeSelector": {"a": "b"}} for name in SERVICES},
    "ingress": {"enabled": True, "className": "nginx", "host": "api.example.com", "tlsSecret": "tls"},
    "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]},
    "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboards")},
}
REFUSED: Final[dict[str, dict[str, Any]]] = {
    "a misspelt value": {"ingres": {"enabled": True}},
    "a misspelt value of a process": {"processes": {"api": {"replica": 3}}},
    "a secret among the settings": {"settings": {"PIXORLY_ADMIN_KEY": "x"}},
    "a word for a number": {"processes": {"api": {"replicas": "three"}}},
    "an encryption that S3 does not know": {"storage": {"sse": "aes"}},
}


class Bad(Exception):
    """Something is not as it should be."""


def insist(holds: object, words: str) -> None:
    """Raise unless something holds."""
    if not holds:
        raise Bad(words)


def run(*words: object) -> None:
    """Run a tool that must be content."""
    done = subprocess.run(list(map(str, words)), cwd=ROOT, text=True, capture_output=True, check=False)  # noqa: S603 - ours
    insist(done.returncode == 0, f"{done.stdout}{done.stderr}".strip())


# Compose and the image


def compose() -> str:
    """Hold docker-compose.yml against the specification."""
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    return "docker-compose.yml is as the compose specification has it"


def dockerfile() -> str:
    """Lint the Dockerfile."""
    run(TOOLS / "hadolint", "deploy/Dockerfile")
    return "hadolint has nothing to say about deploy/Dockerfile"


# Prometheus, Grafana, the collector


def rules(promtool: Path) -> str:
    """Check Prometheus' configuration and rules, and try the alerts."""
    run(promtool, "check", "config", DEPLOY / "prometheus/prometheus.yml")
    run(promtool, "check", "rules", "--lint-fatal", DEPLOY / "prometheus/rules/pixorly.yaml")
    run(promtool, "test", "rules", DEPLOY / "prometheus/tests/pixorly.yaml")
    alerts = (DEPLOY / "prometheus/rules/pixorly.yaml").read_text().count("- alert:")
    return f"promtool: {alerts} alerts, and they go off when they should"


def collector() -> str:
    """See that every part that a pipeline of the collector names is there, and each that is there is used."""
    told = yaml.safe_load((DEPLOY / "otel/collector.yaml").read_text())
    kinds = ("receivers", "processors", "exporters")
    insist(set(told) <= {*kinds, "extensions", "connectors", "service"}, f"unknown sections in {set(told)}")
    pipelines = told["service"]["pipelines"]
    for kind in kinds:
        used = {name for pipeline in pipelines.values() for name in pipeline.get(kind, [])}
        insist(
            used == set(told[kind]), f"{kind}: {used ^ set(told[kind])} is used and not there, or the other way round"
        )
    insist(
        all(pipeline["processors"][0] == "memory_limiter" for pipeline in pipelines.values()), "the limiter comes first"
    )
    return f"the collector's pipelines are whole: {', '.join(pipelines)}"


def queries(promtool: Path) -> str:
    """Have promtool read every query of the dashboards, as a rule each."""
    exprs = [
        target["expr"].replace("$__rate_interval", "5m").replace("$job", ".+")
        for page in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
        for panel in json.loads(page.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    group = {"name": "all", "rules": [{"record": f"q:{place}", "expr": expr} for place, expr in enumerate(exprs)]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [group]}, file)
        file.flush()
        run(promtool, "check", "rules", file.name)
    return f"promtool reads all {len(exprs)} queries of the dashboards"


# Kubernetes


def documents(text: str) -> Iterator[dict[str, Any]]:
    """Yield what a text of YAML holds, without what is empty."""
    yield from (document for document in yaml.safe_load_all(text) if document)


def hold_against_schema(document: dict[str, Any], where: str, version: str) -> None:
    """Hold a document against Kubernetes' own schema, strictly; of a foreign kind, see that the least is there."""
    api, kind = document["apiVersion"], document["kind"]
    if api in FOREIGN:
        insist(kind in FOREIGN[api], f"{where}: no {kind} in {api}")
        insist(
            FOREIGN[api][kind] <= set(document["spec"]),
            f"{where}: {kind} lacks {FOREIGN[api][kind] - set(document['spec'])}",
        )
        return
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Bad(f"{where}: {kind} {document['metadata']['name']}: {error.message} at {list(error.path)}") from error


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the chart makes of some values."""
    with helm_python.Chart.load(str(DEPLOY / "helm")) as chart:
        chart.validate_schema(chart.merge_values(values))
        made = chart.render(values, name="pixorly", namespace="pixorly")
    return [document for name, text in made.items() if name.endswith(".yaml") for document in documents(text)]


def chart() -> str:
    """Lint the chart, render it for several values, and hold all of it against Kubernetes' schemas."""
    aws = yaml.safe_load((DEPLOY / "examples/values-aws.yaml").read_text())
    count = 0
    for name, values in {"the defaults": {}, "everything": EVERYTHING, "values-aws.yaml": aws}.items():
        found = helm_python.lint(str(DEPLOY / "helm"), values, strict=True, namespace="pixorly")
        said = [message for message in found["messages"] if message["severity"] > 1]
        insist(not said and not found["errors"], f"{name}: {said} {found['errors']}")
        made = rendered(values)
        for document in made:
            for version in KUBERNETES:
                hold_against_schema(document, name, version)
        count += len(made)
        hardened(made)
        connected(made)
    for what, values in REFUSED.items():
        try:
            rendered(values)
        except (helm_python.HelmValuesError, helm_python.HelmRenderError):
            continue
        raise Bad(f"the chart takes {what}")
    return f"the chart: {count} documents of three sets of values, for Kubernetes {' and '.join(KUBERNETES)}"


def of_kind(made: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Return the documents of a kind, by what they are about."""
    return {one["metadata"]["name"].removeprefix("pixorly-"): one for one in made if one["kind"] == kind}


def hardened(made: list[dict[str, Any]]) -> None:
    """See that every pod is what a strict namespace takes, has probes and limits, and no secret of its own."""
    deployments = of_kind(made, "Deployment")
    insist(set(deployments) == set(SERVICES), f"deployments: {set(deployments)}")
    for name, document in {**deployments, **of_kind(made, "Job")}.items():
        pod = document["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        security = {**pod["securityContext"], **container["securityContext"]}
        insist(security["runAsNonRoot"] and security["readOnlyRootFilesystem"], f"{name} may write or be root")
        insist(not security["allowPrivilegeEscalation"] and security["capabilities"] == {"drop": ["ALL"]}, name)
        insist(security["seccompProfile"] == {"type": "RuntimeDefault"}, name)
        insist(not pod["automountServiceAccountToken"], f"{name} has a token of the cluster")
        insist("memory" in container["resources"]["limits"] and "cpu" in container["resources"]["requests"], name)
        secret = {"PASSWORD", "TOKEN", "KEY", "DATABASE_URL", "AMQP_URL"}
        told = {entry["name"] for entry in container.get("env", []) if "value" in entry}
        insist(not [one for one in told if one.endswith(tuple(secret))], f"{name}: a secret stands in the Deployment")
    for name, document in deployments.items():
        (container,) = document["spec"]["template"]["spec"]["containers"]
        insist({"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), f"{name} has not all probes")
    insist(set(of_kind(made, "PodDisruptionBudget")) == set(SERVICES), "each process has a budget")
    insist(set(of_kind(made, "Job")) == {"migrate-api", "migrate-generator", "migrate-ledger"}, "three databases")
    insist(all("helm.sh/hook" in job["metadata"]["annotations"] for job in of_kind(made, "Job").values()), "hooks")


def connected(made: list[dict[str, Any]]) -> None:
    """See that the network lets those talk who must, and no others."""
    policies = of_kind(made, "NetworkPolicy")
    component = "app.kubernetes.io/component"

    def others(peers: list[dict[str, Any]]) -> set[str]:
        return {peer["podSelector"]["matchLabels"][component] for peer in peers if "podSelector" in peer}

    heard = {
        (one, name)
        for name in SERVICES
        for rule in policies[name]["spec"]["ingress"]
        for one in others(rule.get("from", []))
    }
    said = {(name, one) for name in SERVICES for rule in policies[name]["spec"]["egress"] for one in others(rule["to"])}
    insist(heard == CALLS, f"who is heard: {heard ^ CALLS}")
    insist(said == CALLS, f"who may call: {said ^ CALLS}")
    nothing = policies["nothing"]["spec"]
    insist(component not in nothing["podSelector"]["matchLabels"] and "ingress" not in nothing, "all else is closed")
    ports = {
        name: {port["port"] for rule in policies[name]["spec"]["egress"] for port in rule["ports"]} for name in SERVICES
    }
    insist(all(5672 in ports[name] for name in SERVICES), "all talk to RabbitMQ")  # noqa: PLR2004 - AMQP's port
    insist(5432 not in ports["uploader"], "the uploader has no database")  # noqa: PLR2004 - PostgreSQL's port
    insist(443 not in ports["ledger"], "the ledger needs neither bucket nor internet")  # noqa: PLR2004 - TLS's port


def examples() -> str:
    """Hold the examples against the schemas, and see that policies for AWS give what the services do and no more."""
    count = 0
    for file in sorted((DEPLOY / "examples").glob("*.yaml")):
        if file.name.startswith("values"):
            continue
        for document in documents(file.read_text()):
            hold_against_schema(document, file.name, KUBERNETES[1])
            count += 1
    for file in sorted((DEPLOY / "examples/aws").glob("*.json")):
        policy = json.loads(file.read_text())
        insist(policy["Version"] == "2012-10-17", file.name)
        for statement in policy["Statement"]:
            insist(
                statement["Effect"] == "Deny" or not [action for action in statement["Action"] if "*" in action],
                file.name,
            )
            insist(statement["Effect"] == "Deny" or "*" not in statement.get("Resource", []), file.name)
        count += 1
    return f"{count} examples"


def bills() -> str:
    """Hold the bills of materials that `make sbom` wrote against CycloneDX's schema."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    files = sorted((ROOT / "dist/sbom").glob("*.cdx.json"))
    insist(files, "there is none: run `make sbom`")
    for file in files:
        error = validator.validate_str(file.read_text())
        insist(error is None, f"{file.name}: {error}")
    return f"{len(files)} bills of materials are CycloneDX 1.6"


def main() -> int:
    """Do all checks, and return how many failed."""
    promtool = Path(sys.argv[1]) / "promtool" if len(sys.argv) > 1 else None
    checks: list[Callable[[], str]] = [compose, dockerfile, collector, chart, examples, bills]
    if promtool:
        checks += [lambda: rules(promtool), lambda: queries(promtool)]
    failed = 0
    for check in checks:
        began = time.monotonic()
        try:
            words, mark = check(), "ok "
        except (Bad, helm_python.HelmError) as error:
            words, mark, failed = str(error), "BAD", failed + 1
        print(f"{mark} {time.monotonic() - began:4.1f} s  {words}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
