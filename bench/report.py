"""docs/performance.md and its plots, from what was found; what is written by hand stands in bench/performance.md."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from figures import Figure, Store, short
from plots import Bar, bars, points, stacked

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
MARK = re.compile(r"^%([a-z]+)(?::([a-z-]+))?%$", re.MULTILINE)
WHY = {
    "throughput": """
        Every job passes through four services, each of which records what it did before it says so: {messages:.1f}
        messages where a shop has one, and {transactions:.1f} transactions, about as many as a shop's three since they
        are shared. At 64 px a job takes about as much of the processors as a shop's all the same. At 1024 px fewer jobs
        a second share what can be shared, and the image itself goes through the object store three times where a shop's
        goes once, which is two thirds of the difference. What would meet the targets is fewer hops for a job on which
        nothing goes wrong: one process that makes the call, the thumbnails and the puts, so that one event, one read
        and one put fall away; but then who holds the providers' keys decodes what strangers send, and may write where
        only the uploader may now.""",
    "processor": """
        An image is put, read and put again, since it is staged before its call is recorded as done. A put of 1.5 MB
        takes 13 ms of the object store's processor time and more on a busy machine, half of it for MD5 sums, and a copy
        on the store's side instead of the second put saves only 4. What would meet the target is to put it once: a
        generator that may create objects among the users' but replace none (`s3:if-none-match` in a bucket's policy)
        puts a private image under a name with its checksum, and the uploader checks it where it lies. What comes to
        nothing would then lie there too, and be looked for, where a rule of the bucket removes it now.""",
    "dispatch": """
        Between the request and the call lie the job's intent, the charge, the promise, the publish with its confirm,
        and the lease, each kept on disk before the next, in three services. A rival has one transaction and one
        publish. Where requests come about as fast as jobs are done (50 a second), it is the queue that is measured.""",
    "finish": """
        After the provider's answer come the staging of the image, its recording, the thumbnails, the puts, and the
        job's settlement, one after the other.""",
    "memory": "A waiting call holds its HTTP connection, its lease, its message and its task.",
    "retry": """
        A retry comes out of a queue whose messages expire, and then waits its turn behind what is queued: on a busy
        machine it is the turn that is late.""",
    "create": "Larger indexes are written and read from disk where a small system's are in memory.",
    "get": "Larger indexes are read from disk where a small system's are in memory.",
    "list": """
        Each of the users' jobs is read by its own index, twenty of them wherever they lie: what is not in memory comes
        from disk. Most of a page's time goes into the sixty signed links of its images, the same on both sides.""",
}


def write(store: Store, docs: Path = DOCS) -> None:
    """Write the document and its plots from what is stored."""
    figures, details = store.figures(), store.details()
    (docs / "images").mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[str], str]] = {
        "machine": lambda _: machine(details),
        "targets": lambda _: targets(figures),
        "misses": lambda _: misses(figures, details),
        "crews": lambda _: crews(details),
        "table": lambda part: table([figure for figure in figures if figure.part == part]),
        "plot": lambda name: plot(name, details, docs),
    }
    text = (HERE / "performance.md").read_text()
    text = MARK.sub(lambda mark: makers[mark[1]](mark[2] or ""), text)
    (docs / "performance.md").write_text(re.sub(r"\n{3,}", "\n\n", text))


def machine(details: Mapping[str, Any]) -> str:
    """On what, with what, and when."""
    abouts = [part["about"] for part in details.values()]
    if not abouts:
        return "Nothing has been measured yet: run `make bench`."
    latest = max(abouts, key=lambda about: about["at_s"])
    versions = ", ".join(
        f"{name} {latest[name]}" for name in ("python", "celery", "dramatiq", "faststream", "asyncpg", "pillow")
    )
    loads = [about["load_before"] for about in abouts if "load_before" in about]
    busy = f"The load of the machine before the parts was {min(loads):.1f} to {max(loads):.1f}. " if loads else ""
    quick = "**This was a quick run, which only shows that it runs: its values say little.** "
    return (
        f"Measured on {latest['at']} on {latest['cores']} cores ({latest['processor']}), {latest['memory_gb']} GB, "
        f"{latest['system']}; {versions}. Medians of {latest['rounds']} rounds. {busy}"
        f"{quick if any(about['quick'] for about in abouts) else ''}"
    ).strip()


def targets(figures: Sequence[Figure]) -> str:
    """Only the lines with a target, which is what most readers want to see."""
    return table([figure for figure in figures if figure.target])


def table(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    aimed = any(figure.target for figure in figures)
    heads = ["figure", "Pixorly", "beside", "ratio", *(["aim", ""] if aimed else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---|---:|---|---:|" + ("---|---|" if aimed else "")]
    lines += ["| " + " | ".join(_cells(figure, aimed=aimed)) + " |" for figure in figures]
    return "\n".join(lines)


def _cells(figure: Figure, *, aimed: bool) -> list[str]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    cells = [figure.figure, f"{short(figure.value)} {figure.unit}".strip(), figure.compared_with or "", ratio]
    met = {None: "", True: "met", False: "**not met**"}[figure.met]
    return [*cells, *([figure.target or "", met] if aimed else [])]


def misses(figures: Sequence[Figure], details: Mapping[str, Any]) -> str:
    """Why what was aimed at was not reached, and what would reach it."""
    counts = details.get("throughput", {}).get("counts", {}).get("pixorly", {"transactions": 0, "messages": 0})
    missed = dict.fromkeys(figure.figure.split()[0].rstrip(",") for figure in figures if figure.met is False)
    lines = [f"- **{name}**: {' '.join(WHY[name].split()).format_map(counts)}" for name in missed if name in WHY]
    return "\n".join(["Where a target was missed:", "", *lines]) if lines else ""


def crews(details: Mapping[str, Any]) -> str:
    tried = details.get("throughput", {}).get("crews", {})
    lines = [
        f"- {name} at {side} px: {', '.join(f'{crew} {rate:g} jobs/s' for crew, rate in reached.items())}"
        for side, each in tried.items()
        for name, reached in each.items()
    ]
    return "\n".join(["The rivals chose the first of these:", "", *lines]) if lines else ""


def plot(name: str, details: Mapping[str, Any], docs: Path) -> str:
    """Write a plot, and return the words that show it; nothing where its part was not measured."""
    made = PLOTS[name](details)
    if made is None:
        return ""
    (docs / "images" / f"performance-{name}.svg").write_text(made)
    return f"![{PLOT_WORDS[name]}](images/performance-{name}.svg)"


PLOT_WORDS = {
    "throughput": "Jobs a second by system, at 64 and 1024 pixels",
    "processor": "Processor time for a thousand jobs, by process",
    "latency": "Dispatch and finish at several rates",
    "backlog": "Throughput with few and with many jobs queued",
    "retries": "How late each retry came at idle",
    "retries-busy": "How late each retry came beside other jobs",
}


def _throughput(details: Mapping[str, Any]) -> str | None:
    if "throughput" not in details:
        return None
    groups = {
        f"{side} px": [Bar(name, median(each), min(each), max(each)) for name, each in rates.items()]
        for side, rates in details["throughput"]["rates"].items()
    }
    return bars(
        "Jobs a second, saturated", "median of the rounds; the line goes from the slowest to the fastest", groups, "/s"
    )


def _processor(details: Mapping[str, Any]) -> str | None:
    if "throughput" not in details:
        return None
    used = details["throughput"]["cpu_s_per_1000"]
    rows = {f"{name}, {side} px": each[name] for side, each in used.items() for name in each}
    return stacked("Processor time for 1,000 jobs", "seconds, by process", rows, "s")


def _latency(details: Mapping[str, Any]) -> str | None:
    if "latency" not in details:
        return None
    groups = {}
    for load, systems in details["latency"]["times_ms"].items():
        side, _, rate = load.partition("/")
        for kind in ("dispatch", "finish"):
            groups[f"{kind}, {rate} jobs/s of {side} px"] = [
                Bar(name, each[kind]["0.5"], each[kind]["0.5"], each[kind]["0.99"]) for name, each in systems.items()
            ]
    note = "the bar is the median, the line goes to the 99th percentile; each group has its own scale"
    return bars("Dispatch and finish", note, groups, "ms", own_scales=True)


def _backlog(details: Mapping[str, Any]) -> str | None:
    found = {**details.get("backlog", {}), **details.get("backlog-full", {})}
    sizes = {size: each for size, each in found.items() if size != "about"}
    if not sizes:
        return None
    groups = {
        f"{int(size):,} queued, in turns with 100": [
            Bar(f"{name} queued", median(rates), min(rates), max(rates))
            for name, rates in (("100", each["few"]), (f"{int(size):,}", each["many"]))
        ]
        for size, each in sizes.items()
    }
    return bars(
        "Throughput behind a queue", "jobs of 64 px; the line goes from the slowest round to the fastest", groups, "/s"
    )


def _retries(details: Mapping[str, Any], place: str) -> str | None:
    if "retries" not in details:
        return None
    errors = {f"{delay} s": each for delay, each in details["retries"][place].items()}
    return points(f"How late retries came, {place}", "seconds beyond the delay that was meant", errors)


PLOTS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "throughput": _throughput,
    "processor": _processor,
    "latency": _latency,
    "backlog": _backlog,
    "retries": partial(_retries, place="at idle"),
    "retries-busy": partial(_retries, place="beside 50 jobs/s"),
}
