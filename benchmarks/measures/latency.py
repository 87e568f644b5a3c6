"""How long a change takes from its commit to its row in the replica.

Both libraries run the very same code here. The clock starts when COMMIT has returned: each save is in a transaction of
its own, whose first ``on_commit`` callback, registered before the library's, notes the time. What a library does after
the commit, within ``save()`` or elsewhere, counts; writing the row on the master does not.

The first seconds of a worker are left out, of either library: this package's asks its master for rows that were there
before it, one, four and ten seconds after its start, and has no process left for changes meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from benchmarks import environment as env
from benchmarks import processes, servers
from benchmarks.measures.rows import people

#: Seconds after a worker's start at which it has nothing to do but to wait for changes.
_SETTLED = 12.0


def lone(n: int = 200, settle: float = _SETTLED) -> Iterator[dict[str, Any]]:
    """Saves of one row with pauses between them: milliseconds from the commit to the replica's row."""
    from benchmarks.service.masters.models import Person

    servers.empty("master", "replica")
    with processes.running_worker(), _watcher("revisions", n) as said:
        person = people(Person, 1)[0]
        person.save()
        json.loads(said.readline())
        time.sleep(settle)
        times = []
        for number in range(n):
            person = Person.objects.get(pk=person.pk)
            person.note = f"note {number}"
            committed = _save(person)
            revision, at = json.loads(said.readline())
            assert revision == number + 1, "a revision was passed over"
            times.append(at - committed)
            time.sleep(0.02)
    yield {"saves_per_s": 0, **_summary(times)}


def _save(instance: Any) -> float:
    """Save in a transaction; the time at which its COMMIT had returned."""
    from django.db import transaction

    committed: list[float] = []
    with transaction.atomic():
        transaction.on_commit(lambda: committed.append(time.monotonic()))
        instance.save()
    return committed[0]


@contextmanager
def _watcher(what: str, number: int) -> Iterator[TextIO]:
    """A watcher that has begun to look; gives what it prints."""
    watcher = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.watcher", what, str(number)], cwd=env.ROOT, env=env.of_process(), text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert watcher.stdout is not None
    try:
        watcher.stdout.readline()
        yield watcher.stdout
        watcher.wait(10)
    finally:
        watcher.kill()
        watcher.wait()


def loaded(n: int = 2500, rate: int = 500, settle: float = _SETTLED) -> Iterator[dict[str, Any]]:
    """Creates at a steady rate: milliseconds from the commit to the row's appearance in the replica."""
    from benchmarks.service.masters.models import Person

    servers.empty("master", "replica")
    with processes.running_worker(), _watcher("rows", n + 1) as said:
        people(Person, 1)[0].save()
        time.sleep(settle)
        saved, instances = {}, people(Person, n)
        start = time.monotonic()
        for number, instance in enumerate(instances):
            pause = start + number / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            committed = _save(instance)
            saved[instance.pk] = committed
        reached = n / (time.monotonic() - start)
        seen = {int(pk): at for pk, at in json.loads(said.readline()).items()}
    yield {"saves_per_s": reached, **_summary([seen[pk] - at for pk, at in saved.items()])}


def _summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] * 1e3

    return {"median_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}
