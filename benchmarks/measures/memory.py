"""Whether a master's process and a worker grow while many changes pass through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import transaction

from benchmarks import processes, servers
from benchmarks.measures.rows import people

_ROWS, _BLOCK = 1000, 100


def memory(n: int = 100_000) -> Iterator[dict[str, Any]]:
    """``n`` updates in blocks of 100, applied meanwhile; MB after the first tenth and at the end."""
    from benchmarks.service.masters.models import Person

    servers.empty("master", "replica")
    with processes.running_worker() as worker, servers.side("replica") as replica, servers.side("master") as master:
        instances = people(Person, _ROWS)
        with transaction.atomic():
            for instance in instances:
                instance.save()
        written, early = 0, None
        while written < n:
            for first in range(0, _ROWS, _BLOCK):
                with transaction.atomic():
                    for instance in instances[first : first + _BLOCK]:
                        instance.note = f"note {written}"
                        instance.save()
            written += _ROWS
            if early is None and written >= n // 10:
                early = _sizes(worker)
        revision = written // _ROWS
        servers.wait_for(lambda: servers.outbox_size(master) == 0, 300, "an empty outbox")
        query = "SELECT count(*) FROM person WHERE cqrs_revision >= %s"
        servers.wait_for(lambda: servers.value(replica, query, revision) >= _ROWS, 300, "the last change")
        late = _sizes(worker)
    assert early is not None
    yield {
        "changes": written, "master_mb": late[0], "master_growth_mb": late[0] - early[0], "worker_mb": late[1],
        "worker_growth_mb": late[1] - early[1],
    }  # fmt: skip


def _sizes(worker: processes.Process) -> tuple[float, float]:
    """Of this process, and of the largest process of the worker."""
    return processes.memory(), max(processes.memory(pid) for pid in (worker.popen.pid, *worker.children()))
