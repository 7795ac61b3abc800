"""`python -m pixorly_stack.observer`: run the observer on a port of the loopback address."""

import argparse
from pathlib import Path

import uvicorn

from pixorly_stack.observer.app import make_app
from pixorly_stack.observer.series import Metrics
from pixorly_stack.observer.store import Store
from pixorly_stack.ports import LOOPBACK


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Receives OTLP over HTTP, and shows it.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True, help="where spans are kept")
    parser.add_argument("--scrape", action="append", default=[], help="NAME=URL of metrics in Prometheus' text")
    given = parser.parse_args()
    scrapes = [(name, url) for name, _, url in (scrape.partition("=") for scrape in given.scrape)]
    app = make_app(Store(given.file), Metrics(), scrapes)
    uvicorn.run(app, host=LOOPBACK, port=given.port, log_level="warning", access_log=False, timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
