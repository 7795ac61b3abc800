"""The ledger's own bench: charges in groups, beside one at a time; with --full, over HTTP and in a large one, too."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from effort import Effort
from figures import Found
from world import HERE, BenchError

TARGETS = {1: 0.9, 64: 10.0}
HOT = "one hot account"


def run(effort: Effort) -> Found:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.json"
        words = [sys.executable, str(HERE / "ledger.py"), "--json", str(file), "--rounds", str(effort.rounds)]
        if not effort.full:
            words += ["--parts", "in-process", "--at-once", "1,8,64"]
        if effort.quick:
            words += ["--quick"]
        if subprocess.run(words, check=False).returncode:  # noqa: S603 - our own words
            raise BenchError("the ledger's bench failed; it said why above")
        return report(json.loads(file.read_text()))


def report(results: dict[str, Any]) -> Found:
    found = Found(
        details={name: results[name] for name in ("in_process", "http", "growth", "audit") if name in results}
    )
    for line in results["in_process"]:
        found.add(
            f"charges, {line['accounts']}, {line['at_once']} at once",
            line["per_s"],
            "/s",
            ("one at a time", line["base_per_s"]),
            ratio=line["ratio"],
            at_least=TARGETS.get(line["at_once"]) if line["accounts"] == HOT else None,
        )
    for line in results.get("http", []):
        figure = f"charges over HTTP, {line['accounts']}, {line['at_once']} at once"
        found.add(figure, line["per_s"], "/s", ("an endpoint of nothing", line["base_per_s"]), ratio=line["ratio"])
    for line in results.get("growth", []):
        figure = f"charges in a large ledger, {line['accounts']}, {line['at_once']} at once"
        found.add(figure, line["per_s"], "/s", ("with 1,000 transfers", line["base_per_s"]), ratio=line["ratio"])
    return found
