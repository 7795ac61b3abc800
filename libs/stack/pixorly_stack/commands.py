"""The commands that start, stop and show the local stack."""

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pixorly_stack.console import out, show_findings, show_log, show_problem, show_raw, show_ready, table_of
from pixorly_stack.errors import StackError, StartError
from pixorly_stack.files import read_json
from pixorly_stack.folder import Folder
from pixorly_stack.logs import Follower, follow, last_lines
from pixorly_stack.settings import StackSettings

LINES_OF_A_FAILURE = 20
LOOK_EVERY_S = 0.1
DOWN_WITHIN_S = 120.0
"""Longer than the slowest service and then the slowest server may take to end."""
NOT_SHOWN_LIVE = ("s3", "epmd", "supervisor")
"""Logs that say much and matter little; `pixorly logs NAME` shows them."""

Dir = Annotated[Path | None, typer.Option("--dir", help="The stack's folder (PIXORLY_DIR, else .pixorly).")]


def settings_for(folder: Path | None) -> StackSettings:
    """Return the settings of the environment, with this folder where one is given."""
    return StackSettings.from_environment(**({"dir": folder} if folder else {}))


def up(
    dir_: Dir = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    emulator: Annotated[bool, typer.Option("--emulator", help="Run the provider's emulator, too.")] = False,
    observe: Annotated[bool, typer.Option("--observe", help="Collect traces and metrics, and show them.")] = False,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Start the servers and services, and stay with them until Ctrl-C."""
    settings = settings_for(dir_)
    folder = Folder(settings.dir)
    if folder.runs():
        out.print(f"Pixorly runs already in {folder.root}.")
        out.print(table_of(folder.rows()))
        return
    if detach:
        _start_detached(folder, [*(["--emulator"] if emulator else []), *(["--observe"] if observe else [])])
    elif asyncio.run(_supervise(settings, emulator=emulator, observe=observe, alone=supervised)):
        raise typer.Exit(1)


def _say(line: str) -> None:
    out.print(escape(line))


async def _supervise(settings: StackSettings, *, emulator: bool, observe: bool, alone: bool) -> int:
    """Run a supervisor until a signal; `alone` shows no table and no logs. Return the exit status."""
    from pixorly_stack.supervisor import Supervisor  # noqa: PLC0415 - heavy, and the other commands are to be quick

    supervisor = Supervisor(settings, _say, emulator=emulator, observe=observe)
    told = asyncio.Event()
    folder, tasks = supervisor.folder, set()

    def stop() -> None:
        if told.is_set():
            _say("killing what is left")
            supervisor.hurry()
        else:
            _say("stopping; once more kills at once")
        told.set()

    def ready() -> None:
        if not alone:
            show_ready(folder.rows(), read_json(folder.dev))
            out.print("Ctrl-C stops it.\n")
            logs = [log for log in sorted(folder.logs.glob("*.log")) if log.stem not in NOT_SHOWN_LIVE]
            tasks.add(asyncio.create_task(follow(map(Follower, logs), show_log)))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await supervisor.run(told, ready)
    except StackError as error:
        _show_failure(folder, error)
        return 1
    _say("stopped")
    return 0


def _show_failure(folder: Folder, error: StackError) -> None:
    if isinstance(error, StartError):
        lines = last_lines(folder.logs / f"{error.name}.log", LINES_OF_A_FAILURE)
        out.print(f"The last lines of {error.name}'s log:")
        for line in lines:
            show_log(error.name, line)
    show_problem(str(error))


def _start_detached(folder: Folder, more: Sequence[str]) -> None:
    """Start a supervisor of its own, show what it says, and return when it is ready.

    Raises:
        typer.Exit: It could not start everything.
    """
    folder.make()
    log = folder.logs / "supervisor.log"
    follower = Follower(log)
    words = [sys.executable, "-m", "pixorly_stack", "up", "--supervised", "--dir", str(folder.root)]
    with log.open("ab") as output:
        supervisor = subprocess.Popen(  # noqa: S603 - our own words
            [*words, *more],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ready = _wait_until_ready(folder, supervisor, follower)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise typer.Exit(130) from None
    if not ready:
        raise typer.Exit(1)
    # It lives on when this process ends.
    supervisor.returncode = 0
    show_ready(folder.rows(), read_json(folder.dev))
    out.print("It runs on by itself: `pixorly down` stops it, `pixorly logs -f` shows what it does.")


def _wait_until_ready(folder: Folder, supervisor: subprocess.Popen[bytes], follower: Follower) -> bool:
    while True:
        ended = supervisor.poll() is not None
        for line in follower.new_lines():
            _say(line)
        if ended:
            return False
        record = folder.record()
        if record and record.status == "ready" and record.supervisor and record.supervisor.pid == supervisor.pid:
            return True
        time.sleep(LOOK_EVERY_S)


def down(dir_: Dir = None) -> None:
    """Stop everything, and return when it is gone."""
    folder = Folder(settings_for(dir_).dir)
    record = folder.record()
    if not folder.runs():
        left = folder.clear_away()
        out.print(f"Killed what was left behind: {', '.join(left)}." if left else f"Nothing runs in {folder.root}.")
        return
    supervisor = record.supervisor.identity if record and record.supervisor else None
    if supervisor is None or not supervisor.signal(signal.SIGTERM):
        raise StackError(f"something runs in {folder.root}, and it is not known what; look for `pixorly up`")
    out.print("Stopping.")
    deadline = time.monotonic() + DOWN_WITHIN_S
    while folder.runs() or supervisor.process():
        if time.monotonic() > deadline:
            supervisor.kill()
            folder.clear_away()
            out.print("It did not end in time and was killed. The data is kept.")
            return
        time.sleep(LOOK_EVERY_S)
    out.print("Stopped. The data is kept.")


def ps(
    dir_: Dir = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what runs: name, state, port, process."""
    folder = Folder(settings_for(dir_).dir)
    rows = folder.rows()
    if as_json:
        fields = ({"name": row.name, "pid": row.pid, "port": row.port, "state": row.state} for row in rows)
        sys.stdout.write(json.dumps(list(fields), indent=2) + "\n")
    elif rows:
        out.print(table_of(rows))
    else:
        out.print(f"Nothing runs in {folder.root}. `pixorly up` starts it.")


def logs(
    service: Annotated[str | None, typer.Argument(help="One of the names of `pixorly ps`; all without it.")] = None,
    dir_: Dir = None,
    *,
    keep_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Lines as they were written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines of each.")] = 50,
) -> None:
    """Show the logs."""
    folder = Folder(settings_for(dir_).dir)
    there = {log.stem: log for log in sorted(folder.logs.glob("*.log"))}
    if service is not None and service not in there:
        known = ", ".join(there) or "none"
        raise StackError(f"there is no log of {service} in {folder.logs}; those there are: {known}")
    show = show_raw if raw else show_log
    chosen = [there[service]] if service else list(there.values())
    followers = [Follower(log) for log in chosen]
    for log in chosen:
        for line in last_lines(log, lines):
            show(log.stem, line)
    if keep_on:
        try:
            asyncio.run(follow(followers, show))
        except KeyboardInterrupt:
            return


def doctor(
    dir_: Dir = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what is missing or wrong, and what to do."""
    from pixorly_stack.doctor import examine  # noqa: PLC0415 - heavy, and the other commands are to be quick

    findings = list(examine(settings_for(dir_)))
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        show_findings(findings)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)
