"""What capturing costs the writer on each engine, by the ORM and by triggers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import environment as env


def capture(
    engine: str = "postgresql", dispatch: str = "relay", n: int = 1000, created: int = 5000, updated: int = 100_000
) -> Iterator[dict[str, Any]]:
    """``benchmarks.capture`` on one engine, in a process of its own: it has settings of its own."""
    sizes = {"--saves": n, "--created": created, "--updated": updated, "--repetitions": 1}
    words = [str(word) for pair in sizes.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.capture", engine, "--dispatch", dispatch, *words], cwd=env.ROOT,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    yield from map(json.loads, done.stdout.splitlines())
