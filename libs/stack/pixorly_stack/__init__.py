"""The local stack: the whole system on one machine, without Docker, and the `pixorly` command."""
