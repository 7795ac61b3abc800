"""`python -m pixorly_stack` is the `pixorly` command."""

from pixorly_stack.cli import app

app()
