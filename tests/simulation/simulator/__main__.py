"""Replay one seed with its whole trace: `python -m simulator SEED [--flaw FLAW]`."""

import argparse

from simulator.simulation import simulate

parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
parser.add_argument("seed", type=int)
parser.add_argument("--flaw", help="break a rule on purpose; test_simulation.FLAWS names them")
given = parser.parse_args()
print(simulate(given.seed, given.flaw, whole_trace=True))  # noqa: T201 - a command
