"""What the machine is, and what processes take of it."""

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]  # it has no types of its own


def describe() -> dict[str, str | int]:
    """What figures depend on, without names of the machine or paths on it."""
    model = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("celery", "dramatiq", "faststream", "aio-pika", "asyncpg", "pillow")},
    }


@dataclass(frozen=True)
class Used:
    """Seconds of the processors, and bytes written, by process with its children."""

    cpu_s: dict[str, float]
    written: dict[str, int]

    @classmethod
    def now(cls, pids: Mapping[str, int]) -> Self:
        cpu_s, written = {}, {}
        for name, pid in pids.items():
            with suppress(psutil.Error):
                tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                # Children that ended count with the parent that waited for them.
                cpu_s[name] = sum(sum(_or_none(each.cpu_times)[:4]) for each in tree)
                written[name] = sum(_written(each.pid) for each in tree)
        return cls(cpu_s, written)

    def since(self, before: "Used") -> "Used":
        return Used(
            {name: max(0.0, value - before.cpu_s.get(name, 0)) for name, value in self.cpu_s.items()},
            {name: max(0, value - before.written.get(name, 0)) for name, value in self.written.items()},
        )


def _or_none(read: object) -> tuple[float, ...]:
    try:
        return tuple(read())  # type: ignore[operator]
    except psutil.Error:
        return ()


def _written(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return 0


def memory_mb(pid: int) -> float:
    """Resident memory of a process without its children."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6
