"""`pixorly-emulator`: the emulator as a process."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvicorn

from pixorly_emulator.app import Options
from pixorly_emulator.faults import help_text
from pixorly_emulator.serving import configured, listening

_EPILOG: Final = """\
faults, by a tag in the prompt:
  [[fault:503]]       this error, every time
  [[fault:503x3]]     the first three calls of this session_id (of this prompt, where there is no session_id)
  [[fault:429,retry-after=5x1]]   with this Retry-After: seconds, none, junk or date+SECONDS
  [[fault:503x1]] [[fault:cutx1]]   one after the other, then a good answer
  [[latency:5]] [[latency:1-3]] [[latency:lognormal:8,0.4]]   how long this call takes

by a rule, at the start (--script FILE) or at run time (POST /_emulator/script):
  {"rules": [{"fault": "503", "model": "google/gemini-3.1-flash-image", "times": 3},
             {"fault": "429", "key": "sk-or-v1-slow"}, {"fault": "cut:after", "call": [2, 5]},
             {"fault": "502", "chance": 0.1}, {"latency": "10", "session_call": 1}]}
  a rule looks at: model, key, session_id, prompt (part of it), route (images, chat, openai), call, session_call

the bill: GET /_emulator/bill (?session_id=), the calls: GET /_emulator/calls, a fresh start: POST /_emulator/reset

"""


def parser(program: str = "pixorly-emulator") -> argparse.ArgumentParser:
    """Return what reads the command line of a program of this name."""
    reads = argparse.ArgumentParser(
        prog=program,
        description="Emulates OpenRouter's image routes (under /api/v1) and OpenAI's (under /v1): draws, fails on "
        "demand, and keeps a bill.",
        epilog=_EPILOG + help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reads.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    reads.add_argument("--port", type=int, default=8090, help="port; 0 takes a free one (default: %(default)s)")
    reads.add_argument("--latency", default="0", help="of every answer: 2, 1-3, lognormal:8,0.4 (default: %(default)s)")
    reads.add_argument("--key", action="append", default=[], help="take this bearer key only; may be repeated")
    reads.add_argument("--script", type=Path, help="a JSON file of rules")
    reads.add_argument("--seed", type=int, default=0, help="of what is left to chance (default: %(default)s)")
    reads.add_argument("--any-model", action="store_true", help="serve models that nobody knows, too")
    reads.add_argument(
        "--bill-disconnected", action="store_true", help="bill calls whose client went away, on the image route too"
    )
    reads.add_argument("--log-level", default="warning", help="uvicorn's (default: %(default)s)")
    return reads


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the options that the command line gives.

    Raises:
        OSError: The script can't be read.
        ValueError: The script is not JSON.
    """
    rules: Any = json.loads(arguments.script.read_text()) if arguments.script else []
    return Options(
        latency=arguments.latency,
        keys=tuple(arguments.key),
        script=tuple(rules["rules"] if isinstance(rules, dict) else rules),
        seed=arguments.seed,
        serve_any=arguments.any_model,
        bill_disconnected=arguments.bill_disconnected,
    )


def main(argv: Sequence[str] | None = None, *, program: str = "pixorly-emulator") -> None:
    """Run until told to stop; the first line of the output says where."""
    reads = parser(program)
    arguments = reads.parse_args(argv)
    try:
        config = configured(options_of(arguments), log_level=arguments.log_level)
        listener = listening(arguments.host, arguments.port)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reads.error(str(error))
    sys.stdout.write(f"pixorly-emulator listens on http://{arguments.host}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])
