"""Replay one seed with its whole trace: `python -m simulator SEED [FLAW]`."""

import sys

from simulator.simulation import simulate

print(simulate(int(sys.argv[1]), *sys.argv[2:3], whole_trace=True))  # noqa: T201 - a command
