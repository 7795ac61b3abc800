"""How much memory the largest and the most hostile images cost, all at once, in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import bad, encoded, good, large, picture

CHILD = """
import asyncio, hashlib, json, pathlib, sys, time
from pixorly.errors import PixorlyError
from pixorly.formats.limits import Limits
from pixorly_uploader.images import Recipe
from pixorly.budget import Budget
from pixorly_uploader.workshop import Workshop

async def main(folder):
    workshop, staged, outcomes = Workshop(Limits(), threads=2), Budget(96 << 20), {}

    async def one(path):
        async with staged.share(path.stat().st_size):
            data = path.read_bytes()
            try:
                await workshop.develop(data, hashlib.sha256(data).hexdigest(), Recipe())
                outcomes[path.name] = "stored"
            except PixorlyError as error:
                outcomes[path.name] = error.code

    await asyncio.gather(*(one(path) for path in sorted(folder.iterdir())))
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({"peak_mb": int(peak.split()[1]) // 1024, "outcomes": outcomes}))

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
def test_memory_is_bounded_whatever_comes(tmp_path: Path) -> None:
    hostile = {name: data for name, (data, _) in bad().items()}
    honest = {name: data for name, (data, *_) in good().items()} | {"plain": encoded(picture(1024, 1024), "PNG")}
    for name, data in large().items():
        for copy in ("a", "b"):
            (tmp_path / f"large {name} {copy}").write_bytes(data)
    for name, data in {**hostile, **honest}.items():
        (tmp_path / f"{'bad' if name in hostile else 'good'} {name}".replace("/", " ")).write_bytes(data)

    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=110, check=True
    )

    found = json.loads(ended.stdout)
    assert found["peak_mb"] < 500
    assert {name: code for name, code in found["outcomes"].items() if name.startswith(("large", "good"))} == {
        path.name: "stored" for path in tmp_path.iterdir() if path.name.startswith(("large", "good"))
    }
    assert {code for name, code in found["outcomes"].items() if name.startswith("bad")} == {"invalid_image"}
