"""Secrets are rotated while clients are at work, as the runbook says: new processes beside the old, then the old end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import quote, urlsplit

import httpx
import pytest
from invariants import books_and_bucket_agree, nothing_is_lost, nothing_left
from stack import SERVICES, Client, Job, Stack, running
from twins import twin

from pixorly_stack.access import Access, S3Access
from pixorly_stack.files import Secrets
from pixorly_stack.folder import Folder
from pixorly_stack.prepare import USERS, prepare

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

ONE = "google/gemini-3.1-flash-image"
OWNER = {"api-worker": "api"}
"""Whose users a process has, where it is not named after them."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    keys = {"OPENROUTER_API_KEY": "sk-or-v1-old", "OPENAI_API_KEY": ""}
    yield from running(tmp_path_factory.mktemp("rotations") / ".pixorly", "--emulator", **keys)
