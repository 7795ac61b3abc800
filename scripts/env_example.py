"""Write `.env.example` from the settings classes, or with `--check` say whether it is what they would give."""

import sys
from pathlib import Path
from typing import Any

from pixorly_api.settings import ApiSettings
from pixorly_generator.settings import GeneratorSettings
from pixorly_ledger.settings import LedgerSettings
from pixorly_uploader.settings import UploaderSettings
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from pixorly.settings import AmqpSettings, LedgerClientSettings, ProcessSettings, Settings, StorageSettings

FILE = Path(__file__).parent.parent / ".env.example"
HEAD = """\
# Every setting of every service, with its default. Copy this file to `.env` for docker compose, or set what you need in
# the environment. What a service does not take it does not read. Secrets have no default worth keeping.
"""
SECTIONS: list[tuple[str, type[Settings]]] = [
    ("Every process", ProcessSettings),
    ("Every process that talks to RabbitMQ", AmqpSettings),
    ("The object store: api, generator, uploader", StorageSettings),
    ("Those who call the ledger: api, uploader (the ledger takes the same token)", LedgerClientSettings),
    ("api", ApiSettings),
    ("generator", GeneratorSettings),
    ("uploader", UploaderSettings),
    ("ledger", LedgerSettings),
]


def name_of(field: str, info: FieldInfo) -> str:
    """Return the environment variable of a field: the seed's own name where it has one."""
    if isinstance(info.validation_alias, AliasChoices):
        return next(str(choice) for choice in info.validation_alias.choices if str(choice).isupper())
    return f"PIXORLY_{field.upper()}"


def text_of(value: Any) -> str:
    """Return a default as it would stand in the environment."""
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if isinstance(value, dict) else f"{value:g}" if isinstance(value, float) else str(value)


def lines_of(section: type[Settings], told: set[str]) -> list[str]:
    """Return the lines of a class's own fields; what a section above told is left out."""
    lines = []
    for field, info in section.model_fields.items():
        default = text_of(None if info.is_required() else info.get_default(call_default_factory=True))
        name = name_of(field, info)
        if f"{name}={default}" in told or (name in told and info.description is None):
            continue
        told |= {f"{name}={default}", name}
        if info.description:
            lines += [f"# {line}".rstrip() for line in " ".join(info.description.split()).split("\n")]
        lines.append(f"{name}={default}" if info.is_required() else f"#{name}={default}")
    return lines


def example() -> str:
    """Return the whole file."""
    told: set[str] = set()
    parts = [HEAD]
    for title, section in SECTIONS:
        if lines := lines_of(section, told):
            parts.append("\n".join([f"# --- {title} ---", "", *lines, ""]))
    return "\n".join(parts)


def main() -> int:
    """Write or check."""
    if "--check" not in sys.argv[1:]:
        FILE.write_text(example(), encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == example():
        return 0
    print(".env.example is out of date: run `make env-example`.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
