"""How the commands reach the API: where it is, with which key, and what an error of it means to a person."""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from pixorly_client import ConnectionTrouble, Patience, Pixorly, PixorlyAPIError, PixorlyError
from pixorly_stack.commands import settings_for
from pixorly_stack.console import err, show_problem
from pixorly_stack.errors import StackError
from pixorly_stack.files import read_json
from pixorly_stack.folder import Folder
from pixorly_stack.settings import environment
from pixorly_stack.showing import show_json

FAILED = 1
REFUSED = 2
INTERRUPTED = 130
TRIES = 7
"""About ten seconds: an api that died is started again in less."""
_FIRST_SERVER_STATUS = 500

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]

Connect = Callable[[Path | None], Pixorly]
"""Takes the stack's folder, where one was named, and returns a client."""


class NoStackError(StackError):
    """No Pixorly runs here."""


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """Where an API is, and the key to it."""

    url: str
    key: str = field(repr=False)

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where no proxy stands between."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def find_api(told: Mapping[str, str], folder: Folder) -> ApiAccess:
    """Return the API that the environment names, else the one of the stack in `folder`.

    Raises:
        NoStackError: There is neither.
        StackError: The environment names an API and no key to it.
    """
    url, key = told.get("PIXORLY_API_URL"), told.get("PIXORLY_API_KEY")
    if url:
        if not key:
            raise StackError("PIXORLY_API_URL is set, so PIXORLY_API_KEY must be set, too")
        return ApiAccess(url, key)
    dev: dict[str, Any] | None = read_json(folder.dev) if folder.runs() else None
    if dev is None:
        raise NoStackError(
            f"no Pixorly runs in {folder.root}. Start one with `pixorly up`, "
            "or name another with PIXORLY_API_URL and PIXORLY_API_KEY"
        )
    return ApiAccess(dev["api_url"], key or dev["api_key"])


def find_admin(told: Mapping[str, str], folder: Folder) -> ApiAccess:
    """Return the API as `find_api` does, with its operator's key.

    Raises:
        NoStackError: There is none.
        StackError: The environment names an API and no operator's key to it.
    """
    url, key = told.get("PIXORLY_API_URL"), told.get("PIXORLY_ADMIN_KEY")
    if url and not key:
        raise StackError("PIXORLY_API_URL is set, so this command needs PIXORLY_ADMIN_KEY")
    found = find_api({**told, **({"PIXORLY_API_KEY": key} if key else {})}, folder)
    return found if key else ApiAccess(found.url, str((read_json(folder.dev) or {}).get("admin_key", "")))


def connect(named: Path | None) -> Pixorly:
    """Return a client of the API that the environment or the stack's folder names."""
    access = find_api(environment(), Folder(settings_for(named).dir))
    return Pixorly(access.key, access.url, patience=Patience(tries=TRIES), trust_env=not access.local)


def connect_as_admin(named: Path | None) -> Pixorly:
    """Return a client of the same API that may do what its operator may."""
    access = find_admin(environment(), Folder(settings_for(named).dir))
    return Pixorly(access.key, access.url, patience=Patience(tries=TRIES), trust_env=not access.local)


@contextmanager
def talking(context: typer.Context, folder: Path | None, *, as_json: bool = False) -> Iterator[Pixorly]:
    """Talk to the API; what it refuses and what goes wrong is shown, and ends the command."""
    make: Connect = context.obj or connect
    with make(folder) as client:
        try:
            yield client
        except PixorlyAPIError as error:
            show_refusal(error, as_json=as_json)
            raise typer.Exit(REFUSED if error.status < _FIRST_SERVER_STATUS else FAILED) from None
        except ConnectionTrouble as trouble:
            show_problem(_in_words(trouble))
            raise typer.Exit(FAILED) from None
        except PixorlyError as error:
            show_problem(str(error))
            raise typer.Exit(FAILED) from None


def _in_words(trouble: ConnectionTrouble) -> str:
    parts = urlsplit(trouble.url)
    where = f"{parts.scheme}://{parts.netloc}"
    if trouble.refused:
        return f"nothing answers at {where}. `pixorly ps` shows what runs, `pixorly up` starts it"
    return f"{where} did not answer as it should: {trouble.reason}"


def show_refusal(error: PixorlyAPIError, *, as_json: bool) -> None:
    """Show what the API said against a request: its words, then field by field or fact by fact."""
    if as_json:
        facts = {"status": error.status, "code": error.code, "detail": error.detail, "request_id": error.request_id}
        show_json({"error": facts | error.facts})
        return
    show_problem(str(error))
    for name, message in error.fields.items():
        err.print(f"  {escape(name)}: {escape(message)}")
    for name, fact in error.facts.items():
        if isinstance(fact, int | float | str):
            err.print(f"  {escape(name.replace('_', ' '))}: {escape(str(fact))}")
    if error.request_id:
        err.print(f"  [dim]request {escape(error.request_id)}[/]")
