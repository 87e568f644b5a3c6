"""The benchmark runs, measures real work and writes its table; how fast anything is does not matter here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import plan, report
from benchmarks.environment import OURS, PEER
from tests import services

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("save", "apply", "sync", "bulk_create", "latency")


def run_benchmark(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "BENCH_"))},
        "BENCH_PREFIX": f"cqrs_bench_test_{os.getpid()}",
        "BENCH_AMQP_URL": services.AMQP_URL,
        "BENCH_POSTGRESQL_URL": services.POSTGRESQL_URL,
        "BENCH_LOGS": str(folder / "logs"),
    }
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--small", "--folder", str(folder), "--only", *STEPS],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.timeout(660)
def test_small_run_writes_a_table(tmp_path):
    services.require("rabbitmq", "postgresql")

    done = run_benchmark(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    assert not [record for record in records if "failure" in record]
    assert {record["title"] for record in records} >= set(STEPS)
    applied = [record for record in records if record["title"] == "apply"]
    assert all(record["changes"] == plan.SMALL.messages and record["changes_per_s"] > 0 for record in applied)
    table = (tmp_path / "table.md").read_text()
    assert "save, update, autocommit: times a plain save (mean)" in table
    assert "cqrs_sync, end to end: rows/s" in table
    assert (tmp_path / "compared.inc").read_text().startswith(".. list-table::")


def record(title: str, library: str, repetition: int, **numbers: object) -> dict[str, object]:
    return {"title": title, "library": library, "repetition": repetition, **numbers}


def test_a_line_compares_medians_of_repetitions():
    records = [record("sync", OURS, i, rows_per_s=rate) for i, rate in enumerate((100, 9000, 3000))]
    records += [record("sync", PEER, i, rows_per_s=rate) for i, rate in enumerate((100, 300, 500))]

    [line] = [line for line in report.lines(records) if line.name == "cqrs_sync, end to end: rows/s"]

    assert (line.ours, line.peer, line.times) == (3000, 300, 10)


def test_less_is_better_where_a_line_says_so():
    records = [record("latency", OURS, 0, median_ms=5.0, p99_ms=9.0), record("latency", PEER, 0, median_ms=6.0)]

    by_name = {line.name: line for line in report.lines(records)}

    assert by_name["commit to replica row, a lone save: ms (median)"].times == pytest.approx(1.2)
    assert by_name["commit to replica row, a lone save: ms (p99)"].times is None


def test_growth_is_relative_to_the_smallest_table():
    records = [record("growth, apply", OURS, 0, rows=r, changes_per_s=s) for r, s in ((1000, 800), (100_000, 400))]

    costs = [line.beside for line in report.growth(records) if line.name.startswith("apply")]

    assert costs == ["1.00", "2.00"]


def test_capture_is_shown_by_engine_with_the_peer_beside():
    common = {"engine": "postgresql", "dispatch": "relay"}
    records = [
        record("capture", OURS, 0, **common, write="save(), create, autocommit", ratio_trigger=1.25, ratio_orm=2.0),
        record("capture", OURS, 0, **common, write="bulk_create", ratio_trigger=1.5, ratio_orm=1.75),
        record("save", PEER, 0, kind="create", place="autocommit", ratio_median=3.0),
        record("bulk_create", PEER, 0, ratio=8.0),
    ]

    assert report.capture(records) == [
        ["postgresql", "save(), create, autocommit", "1.25", "", "2.00", "", "3.00"],
        ["postgresql", "bulk_create", "1.50", "", "1.75", "", "8.00"],
    ]


def test_capture_is_measured_without_the_test_suite():
    """The environments of a benchmark have no pytest."""
    code = "import sys; sys.modules['pytest'] = None; from benchmarks import capture; capture.main()"
    sizes = ("--saves", "5", "--created", "5", "--updated", "5", "--repetitions", "1")

    done = subprocess.run(
        [sys.executable, "-c", code, "sqlite", *sizes], cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["write"] for line in lines if "ratio_trigger" in line][-2:] == ["bulk_create", "QuerySet.update()"]
