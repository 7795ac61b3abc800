"""Measure Pixorly beside what a team would use instead, and beside the limit of the machine, in the same run.

Parts that are named are measured, else the main ones. What each finds is written as soon as it is found, to
bench/results/latest.json, and docs/performance.md is made from that: a run that is interrupted loses one part only, and
`--resume` goes on with the parts that are left.
"""

import argparse
import importlib
import os
import resource
import signal
import sys
import traceback
from types import FrameType

import report
from effort import Effort, progress
from figures import RESULTS, Found, Store, table
from machine import describe
from world import BenchError

PARTS = {
    "throughput": "jobs a second, saturated, 64 and 1024 px; processor, messages, transactions and calls for each job",
    "latency": "dispatch and finish at 5, 20 and 50 jobs a second",
    "in-flight": "memory and dispatch with 1,000 provider calls in flight (5,000, too, with --full)",
    "ledger": "charges in groups beside one at a time (over HTTP and in a ledger of a million, too, with --full)",
    "backlog": "throughput with 10,000 jobs queued beside 100 (100,000, too, with --full)",
    "history": "create, get and list with 100,000 jobs beside none (1,000,000 with --full)",
    "messages": "what a message costs: aio-pika alone, FastStream, and Pixorly's delivery",
    "retries": "how exactly retries come after 2, 4 and 8 s, at idle and beside 50 jobs a second",
}
ONLY_FULL = {"history"}
"""What is a main figure only where the state is large."""
LARGER = {"in-flight", "ledger", "backlog", "history"}
"""Of which the full run measures more, which stands beside what only the main run finds."""
NOT_AGAIN_WITHIN_S = 12 * 3600


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, _as_interrupt)
    # Thousands of calls in flight are as many connections, of processes that have this limit from us.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    store, effort, docs = Store(), Effort(given.rounds, given.seconds, full=given.full), report.DOCS
    if given.quick:
        effort, docs = Effort(rounds=2, seconds=1, quick=True, full=given.full), RESULTS / "quick"
        store = Store(docs)
    failed = list[str]()
    for number, part in enumerate(parts := chosen(given), 1):
        if given.resume and store.fresh(f"{part}-full" if effort.full and part in LARGER else part, NOT_AGAIN_WITHIN_S):
            progress(f"{part}: found already")
            continue
        progress(f"part {number} of {len(parts)}, {part}: {PARTS[part]}")
        about = {
            **describe(),
            "load_before": round(os.getloadavg()[0], 1),
            "rounds": effort.rounds,
            "quick": effort.quick,
        }
        try:
            found = measured(part, effort)
        except Exception as error:  # noqa: BLE001 - whatever befell one part, the others are measured
            failed.append(part)
            progress(f"{part} failed: {error or type(error).__name__}")
            if not isinstance(error, BenchError):
                traceback.print_exc()
            continue
        name = f"{part}-full" if effort.full and part in LARGER else part
        store.put(name, found, about)
        report.write(store, docs)
        print(f"\n{part}\n{table([figure for figure in store.figures() if figure.part == name])}\n", flush=True)
    if failed:
        sys.exit("These parts failed: " + ", ".join(failed))


def chosen(given: argparse.Namespace) -> list[str]:
    """The parts that are named, else those of a main or a full run."""
    return given.parts or [part for part in PARTS if given.full or part not in ONLY_FULL]


def measured(part: str, effort: Effort) -> Found:
    found = importlib.import_module(f"parts.{part.replace('-', '_')}").run(effort)
    assert isinstance(found, Found)
    return found


def arguments() -> argparse.Namespace:
    list_of_parts = "\n".join(f"  {name:<12}{words}" for name, words in PARTS.items())
    reads = argparse.ArgumentParser(
        description=__doc__, epilog=f"parts:\n{list_of_parts}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reads.add_argument("parts", nargs="*", metavar="PART", help="what to measure; the main parts where none is named")
    reads.add_argument("--rounds", type=int, default=5, help="how often each way has its turn (5)")
    reads.add_argument("--seconds", type=float, default=3, help="about how long a turn takes (3)")
    reads.add_argument("--full", action="store_true", help="large states and long runs, too; takes hours")
    reads.add_argument(
        "--quick",
        action="store_true",
        help="only see that it runs: figures go to results/quick",
    )
    reads.add_argument("--resume", action="store_true", help="leave out what was measured within twelve hours")
    given = reads.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        reads.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def _as_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; what was found before is kept, and --resume goes on from there.")
