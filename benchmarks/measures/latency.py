"""How long a change takes from its commit to its row in the replica."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import environment as env
from benchmarks import processes, servers
from benchmarks.measures.rows import people


def lone(n: int = 200) -> Iterator[dict[str, Any]]:
    """Saves of one row with pauses between them: milliseconds from the call of ``save()`` to the replica's row."""
    from benchmarks.service.masters.models import Person

    servers.empty("master", "replica")
    with processes.running_worker(), servers.side("replica") as connection:
        person = people(Person, 1)[0]
        person.save()
        servers.wait_for(functools.partial(_has_revision, connection, person.pk, 0), 60, "the first row")
        times = []
        for number in range(n):
            person = Person.objects.get(pk=person.pk)
            person.note = f"note {number}"
            wanted = person.cqrs_revision + 1
            start = time.monotonic()
            person.save()
            there = functools.partial(_has_revision, connection, person.pk, wanted)
            servers.wait_for(there, 30, "a row's new revision", step=0.0005)
            times.append(time.monotonic() - start)
            time.sleep(0.02)
    yield {"saves_per_s": 0, **_summary(times)}


def _has_revision(connection: Any, pk: int, wanted: int) -> bool:
    revision = servers.value(connection, "SELECT cqrs_revision FROM person WHERE id = %s", pk)
    return revision is not None and revision >= wanted


def loaded(n: int = 2500, rate: int = 500) -> Iterator[dict[str, Any]]:
    """Creates at a steady rate: milliseconds from the call of ``save()`` to the row's appearance in the replica."""
    from benchmarks.service.masters.models import Person

    servers.empty("master", "replica")
    with processes.running_worker():
        watcher = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watcher", str(n + 1)], cwd=env.ROOT, env=env.of_process(), text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert watcher.stdout is not None
        watcher.stdout.readline()
        people(Person, 1)[0].save()
        saved, instances = {}, people(Person, n)
        start = time.monotonic()
        for number, instance in enumerate(instances):
            pause = start + number / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            before = time.monotonic()
            instance.save()
            saved[instance.pk] = before
        reached = n / (time.monotonic() - start)
        seen = {int(pk): at for pk, at in json.loads(watcher.stdout.read()).items()}
        watcher.wait(10)
    yield {"saves_per_s": reached, **_summary([seen[pk] - at for pk, at in saved.items()])}


def _summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] * 1e3

    return {"median_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}
