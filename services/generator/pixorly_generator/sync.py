"""Bring a model catalogue up to date with what OpenRouter offers: `pixorly models sync`.

The difference is shown before anything is written, and only what can be read again is written.
"""

import argparse
import asyncio
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from tomllib import TOMLDecodeError

from pydantic import ValidationError

from pixorly import catalogue
from pixorly.errors import ProviderUnavailable
from pixorly.settings import OfferSettings
from pixorly_generator.providers.discovery import Offer, discover, rewritten


def synced(file: Path, offers: Iterable[Offer], agree: Callable[[], bool], say: Callable[[str], object]) -> bool:
    """Show how a catalogue would change, and write it if `agree` says so; tell whether it was written.

    Raises:
        OSError: The file can't be read or written.
        pydantic.ValidationError: It is no catalogue.
        tomllib.TOMLDecodeError: It is no TOML.
    """
    before = file.read_text(encoding="utf-8")
    after = rewritten(before, offers)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"{file.name}, as it is", "as offered"
    )
    difference = "".join(lines)
    if not difference:
        say(f"{file} is up to date.\n")
        return False
    say(difference)
    catalogue.read(after)
    if not agree():
        say(f"{file} is left as it is; --write writes it.\n")
        return False
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(after, encoding="utf-8")
    fresh.replace(file)
    say(f"{file} is written; the api and the generator read it when they start.\n")
    return True


def _agreed() -> bool:
    """Ask whoever sits at the terminal; nobody there is a no."""
    if not sys.stdin.isatty():
        return False
    sys.stdout.write("Write it? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, show, and write if told to."""
    reads = argparse.ArgumentParser(prog="pixorly models sync", description=__doc__)
    reads.add_argument("--file", type=Path, help="the catalogue; without it PIXORLY_MODELS_FILE or the one that ships")
    reads.add_argument("--write", action="store_true", help="write it without asking")
    arguments = reads.parse_args(argv)
    settings = OfferSettings.load()
    key = settings.openrouter_api_key
    file = arguments.file or settings.models_file or Path(str(files("pixorly") / "models.toml"))
    try:
        offers = asyncio.run(discover(settings.openrouter_base_url, key.get_secret_value() if key else None))
        synced(file, offers, (lambda: True) if arguments.write else _agreed, sys.stdout.write)
    except ProviderUnavailable as error:
        reads.exit(1, f"{settings.openrouter_base_url}: {error.message}\n")
    except (OSError, ValidationError, TOMLDecodeError) as error:
        reads.exit(1, f"{file}: {error}\n")


if __name__ == "__main__":
    main()
