"""Many programs write by plain SQL while a relay publishes: nothing is lost, and the triggers bring no deadlock.

The long form is ``python -m benchmarks.capture postgresql --writers 100 --seconds 60``, which also compares throughput.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest

from tests import services

ROOT = Path(__file__).resolve().parents[2]
WRITERS = os.environ.get("CQRS_TEST_WRITERS", "20")
SECONDS = os.environ.get("CQRS_TEST_WRITERS_SECONDS", "1")


def test_nothing_is_lost_and_nobody_waits_for_ever():
    services.require("postgresql")
    if not shutil.which("pgbench") and not glob("/usr/lib/postgresql/*/bin/pgbench"):
        (pytest.fail if services.IN_CI else pytest.skip)("there is no pgbench")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.capture", "postgresql", "--repetitions", "1",
         "--writers", WRITERS, "--seconds", SECONDS],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "BENCH_POSTGRESQL_URL": services.POSTGRESQL_URL, "BENCH_PREFIX": "cqrs_many_writers"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["changes"] > 0
    assert (found["lost"], found["left"], found["deadlocks"]) == (0, 0, 0)
