"""What all tests share."""

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

pytest_plugins = ["servers", "stack"]


@dataclass(frozen=True)
class Trial:
    """How the trial of `tests/chaos/test_trial.py` is run."""

    seconds: float
    jobs: int
    seed: int


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trial", "the trial: jobs come in while processes are killed")
    group.addoption("--trial-seconds", type=float, default=120, help="for how long (default: %(default)s)")
    group.addoption("--trial-jobs", type=int, default=300, help="how many jobs (default: %(default)s)")
    group.addoption("--trial-seed", type=int, default=None, help="of what is left to chance (default: a new one)")


@pytest.fixture(scope="session")
def trial(request: pytest.FixtureRequest) -> Trial:
    """How long, how many jobs, and which seed."""
    given = request.config.getoption
    seed = given("trial_seed")
    return Trial(given("trial_seconds"), given("trial_jobs"), secrets.randbelow(10**6) if seed is None else seed)
