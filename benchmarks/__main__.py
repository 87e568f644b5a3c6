"""Run the benchmark: ``python -m benchmarks --peer-python .venv-peer/bin/python``.

Writes ``results.json`` (every number), its tables as ``table.md`` and ``*.inc``, and, with matplotlib, ``plot.svg``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import environment as env
from benchmarks import plan, report

_FOLDER = env.ROOT / "benchmarks" / "results"


class Run:
    """The steps of a run, each in a process of its own, and what they gave."""

    def __init__(self, pythons: dict[str, str], folder: Path) -> None:
        self.pythons, self.folder = pythons, folder
        self.records: list[dict[str, Any]] = []

    def step(self, step: plan.Step, repetition: int) -> None:
        """Take one step and note its numbers; one that fails is noted, and the others go on."""
        arguments = dict(step.arguments)
        try:
            if step.messages is not None:
                arguments["path"] = self._messages(step)
            for numbers in self._measure(step.library, step.measure, arguments, step.environment):
                self._note({"title": step.title, "library": step.library, "repetition": repetition, **numbers})
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failure = f"{step.measure} failed: {str(getattr(error, 'stderr', '') or error)[-800:]}"
            self._note({"title": step.title, "library": step.library, "repetition": repetition, "failure": failure})

    def setup(self) -> dict[str, Any]:
        """Make databases and queues; returns the versions of what is measured."""
        return {library: next(iter(self._measure(library, "setup", {}, {})))["versions"] for library in self.pythons}

    def teardown(self) -> None:
        """Remove databases and queues."""
        for library in self.pythons:
            self._measure(library, "teardown", {}, {})

    def _note(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in record.items()}
        print(time.strftime("%H:%M:%S"), json.dumps(shown), flush=True)

    def _messages(self, step: plan.Step) -> Path:
        assert step.messages is not None
        name = "-".join(str(value) for value in (step.library, *step.messages.values()))
        path = self.folder / "messages" / f"{name}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            for numbers in self._measure(step.library, "messages", {**step.messages, "path": path}, {}):
                print(time.strftime("%H:%M:%S"), json.dumps({"messages": step.title, **numbers}), flush=True)
        return path

    def _measure(
        self, library: str, measure: str, arguments: dict[str, Any], more: dict[str, str]
    ) -> list[dict[str, Any]]:
        words = [f"{name}={value}" for name, value in arguments.items()]
        done = subprocess.run(
            [self.pythons[library], "-m", "benchmarks.measure", measure, *words], cwd=env.ROOT, text=True, check=True,
            capture_output=True, timeout=3600, env=env.of_process(library=library, side="master", **more),
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="Python that has the peer; without it, only ours is measured.")
    parser.add_argument("--small", action="store_true", help="A few rows of everything, to see that it works.")
    parser.add_argument("--repetitions", type=int, help="How often (3).")
    parser.add_argument("--memory", type=int, help="Changes that pass through master and worker (100,000).")
    parser.add_argument("--sync-peer", type=int, help="Rows that the peer syncs (10,000).")
    parser.add_argument("--only", nargs="*", help="Steps to run, by title or its first words (see benchmarks/plan.py).")
    parser.add_argument("--publish", type=Path, help="Where the results are copied to, for the documentation.")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="Where the results go.")
    return parser.parse_args()


def _wanted(step: plan.Step, only: list[str] | None) -> bool:
    return not only or any(step.title == title or step.title.startswith(f"{title},") for title in only)


def main() -> None:
    """Run the plan and write its results."""
    options = _arguments()
    sizes = plan.SMALL if options.small else plan.Sizes()
    given = {name: getattr(options, name) for name in ("repetitions", "memory", "sync_peer")}
    sizes = dataclasses.replace(sizes, **{name: value for name, value in given.items() if value})
    pythons = {env.OURS: sys.executable}
    if options.peer_python:
        pythons[env.PEER] = options.peer_python
    libraries = tuple(pythons)
    options.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    run = Run(pythons, options.folder)
    for old in (options.folder / "messages").glob("*"):
        old.unlink()  # they hold the revisions and the expiry of another run
    versions: dict[str, Any] = {}
    try:
        versions = run.setup()
        for repetition in range(sizes.repetitions):
            for step in plan.each_repetition(sizes, libraries):
                if _wanted(step, options.only):
                    run.step(step, repetition)
        for step in plan.once(sizes, libraries):
            if _wanted(step, options.only):
                run.step(step, 0)
    except KeyboardInterrupt:
        print("Interrupted: what follows is what there was until then.", flush=True)
    finally:
        run.teardown()
    result = {
        "date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "load_after": os.getloadavg()[2],
        "seconds": round(time.monotonic() - started), "versions": versions, "sizes": dataclasses.asdict(sizes),
        "records": run.records,
    }  # fmt: skip
    report.write(result, options.folder)
    if options.publish:
        options.publish.mkdir(parents=True, exist_ok=True)
        for path in (*options.folder.glob("*.inc"), options.folder / "results.json", options.folder / "plot.svg"):
            if path.exists():
                shutil.copy(path, options.publish / path.name)


if __name__ == "__main__":
    main()
