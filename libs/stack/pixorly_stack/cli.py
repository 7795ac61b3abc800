"""The `pixorly` command: one app, whose commands live in modules of their own."""

import sys
from typing import Any

import typer

from pixorly_stack import (
    account,
    audit,
    backup,
    bill,
    bucket,
    commands,
    credits,  # noqa: A004 - the command's name
    dead,
    demo,
    generate,
    handover,
    images,
    jobs,
    offer,
    pauses,
    trace,
    users,
)
from pixorly_stack.console import show_problem
from pixorly_stack.errors import StackError


class App(typer.Typer):
    """A command whose own errors are messages, not tracebacks."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that the arguments name, and exit."""
        try:
            return super().__call__(*args, **kwargs)
        except StackError as error:
            show_problem(str(error))
            sys.exit(1)


app = App(
    help="Pixorly on this machine: the servers, the services, and images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (commands.up, commands.down, commands.ps, commands.logs, commands.doctor, handover.prepare):
    app.command()(command)
for of_the_api in (
    generate.generate,
    demo.demo,
    account.account,
    account.usage,
    credits.statement,
    audit.audit,
    trace.trace,
):
    app.command()(of_the_api)
for of_operators in (backup.backup, backup.restore, pauses.pause, pauses.resume):
    app.command()(of_operators)
# What follows is the emulator's to read, `--help` too.
_AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True}
app.command(add_help_option=False, context_settings=_AS_IT_IS)(offer.emulator)
app.add_typer(offer.app, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(images.app, name="images")
app.add_typer(bucket.app, name="bucket")
app.add_typer(dead.app, name="dead")
app.add_typer(users.app, name="users")
app.add_typer(credits.app, name="credits")
app.add_typer(users.plans, name="plans")
app.add_typer(bill.app, name="bill")
