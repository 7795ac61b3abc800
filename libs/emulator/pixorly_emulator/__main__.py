"""`python -m pixorly_emulator`."""

from pixorly_emulator.cli import main

main()
